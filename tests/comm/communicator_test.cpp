// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "communicator_body.hpp"

#include <doctest/doctest.h>

TEST_CASE("communicator: one rank") {
  tenon::comm::self world;
  communicator_body::check_communicator(world);
}

TEST_CASE("communicator: threads, 1 to 8 ranks") {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    CAPTURE(ranks);
    tenon::comm::threads::run(ranks, [](auto& world) { communicator_body::check_communicator(world); });
  }
}

TEST_CASE("communicator: watched threads") {
  for (int ranks : {1, 3, 4})
    tenon::comm::threads::run(ranks, [](auto& world) { communicator_body::check_communicator(world); },
                              {.late_after = 60});
}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <tenon/comm.hpp>

using namespace tenon;
using comm::stream;
using comm::threads;

TEST_CASE("stream: in order, beside the group's own use, more than fit the queue") {
  threads::run(3, [](threads& world) {
    std::vector<std::vector<float>> data(200, std::vector<float>(50, float(world.rank() + 1)));
    std::vector<int> order;
    {
      stream<threads> s(world);
      stream<threads>::request first = 0, last = 0;
      for (std::size_t i = 0; i < data.size(); ++i) {
        last = s.enqueue([&, i](threads& own) {
          comm::all_reduce(own, std::span<float>(data[i]));
          order.push_back(int(i));
        });
        if (i == 0) first = last;
        if (i % 50 == 0) world.barrier();
      }
      s.wait(first);
      CHECK(data[0] == std::vector<float>(50, 6.f));
      s.wait(last);
      s.wait(first);
      CHECK(data.back() == std::vector<float>(50, 6.f));
      s.enqueue([&](threads&) { order.push_back(-1); });
    }  // runs what is still there
    std::vector<int> expected(200);
    std::iota(expected.begin(), expected.end(), 0);
    expected.push_back(-1);
    CHECK(order == expected);
  });
}

TEST_CASE("stream: an exception comes out where it is waited for, and ends the stream") {
  threads::run(2, [](threads& world) {
    stream<threads> s(world);
    auto held = std::make_shared<int>(1);
    int runs = 0;
    auto const fine = s.enqueue([&](threads&) { ++runs; });
    auto const wrong = s.enqueue([](threads&) { throw std::runtime_error("wrong"); });
    auto const after = s.enqueue([&runs, held](threads&) { ++runs; });
    s.wait(fine);
    CHECK_THROWS_WITH(s.wait(wrong), "wrong");
    CHECK_THROWS_WITH(s.wait(after), "wrong");
    CHECK_THROWS_WITH(s.wait_all(), "wrong");
    CHECK(runs == 1);
    CHECK(held.use_count() == 1);  // what is not run is destroyed all the same
  });
}

TEST_CASE("stream: one rank runs at once") {
  comm::self world;
  stream<comm::self> s(world);
  int runs = 0;
  auto const r = s.enqueue([&](comm::self& c) { runs += c.size(); });
  CHECK(runs == 1);
  s.wait(r);
  s.wait_all();
}

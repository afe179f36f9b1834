// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::add: one value is partial and the other is not.*Fix:
// The squares of weights that all tensor ranks hold are added to those of weights that are cut: counted once for each rank.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

void squares_of_all(mesh<self>& ranks, placed<std::span<float const>, shard<tensor_axis>> cut,
                    placed<std::span<float const>> held_by_all) {
  auto total = sum_of_squares(cut);
  add(total, sum_of_squares(held_by_all));
  // right: auto whole = all_reduce<tensor_axis>(ranks, total); add(whole, sum_of_squares(held_by_all));
}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A step of a trainer on a mesh, by its placements: what is partial, sharded and replicated, and when.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double step(mesh<self>& ranks, placed<exact_sum, partial<world_axis>> loss, placed<exact_sum, partial<world_axis>> more,
            placed<index_t> targets, placed<std::span<float>, partial<replicas_axis>> gradient, std::span<float> own,
            std::span<float> all, std::span<std::size_t const> cuts) {
  add(loss, more);
  auto const part = reduce_scatter<replicas_axis>(ranks, gradient, own, cuts);
  double const length = norm(all_reduce<replicas_axis>(ranks, sum_of_squares(part)));
  scale(part, placed<float>(float(1 / length)));
  auto const whole = all_gather<replicas_axis>(ranks, part, all, cuts);
  return mean(all_reduce<world_axis>(ranks, loss), targets).value() + double(reduced(part)[0] + reduced(whole)[0]);
}
// Placements along several axes, in any order.
auto sequence_parallel_norm(mesh<self>& ranks, placed<std::span<float>, shard<replicas_axis>, partial<tensor_axis>> a,
                            placed<std::span<float>, partial<tensor_axis>, shard<replicas_axis>> b) {
  add(a, b);
  return reduced(all_reduce<tensor_axis>(ranks, a));
}
int main() {}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::scale: the factor is not replicated.*Fix:
// Each rank scales its gradients by a factor that only it has.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

void clip(mesh<self>& ranks, placed<std::span<float>, shard<data_axis>> gradient,
          placed<exact_sum, partial<data_axis>> squares) {
  auto const factor = [](auto const& s) { return float(1 / std::sqrt(s.local().value())); };
scale(gradient, placed<float>(factor(all_reduce<data_axis>(ranks, squares))));
}

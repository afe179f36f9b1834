// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::all_reduce: the value is replicated.*Fix:
// After an all-reduce all ranks have the whole gradient; its squares added over ranks give a norm too large by sqrt(ranks).
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

double gradient_norm(mesh<self>& ranks, placed<std::span<float>> gradient) {
return norm(sum_of_squares(gradient));
}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::comm::add: the values are placed along different axes.*Fix:
// A sum over the data ranks takes up one that is partial over the tensor ranks.
#include <tenon/comm/placement.hpp>
#include <tenon/comm/self.hpp>
using namespace tenon;
using namespace tenon::comm;

void accumulate(mesh<self>& ranks, placed<exact_sum, partial<data_axis>> a, placed<exact_sum, partial<tensor_axis>> b) {
auto sum = all_reduce<data_axis>(ranks, a); add(sum, all_reduce<tensor_axis>(ranks, b));
}

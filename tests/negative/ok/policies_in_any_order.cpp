// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/policy/set.hpp>
using namespace tenon;
static_assert(check_policies<>());
static_assert(check_policies<data<2>, tensor<2>, pipeline<2, one_f_one_b>, zero<1>, precision::bf16_mixed,
                             memory::recompute_selective, comm::mpi, device::cuda>());
static_assert(check_policies<comm::mpi, zero<3, hybrid<2>>, precision::bf16_mixed, data<4>>());
static_assert(policies<data<2>, tensor<4>, pipeline<2>>::mesh_size() == 16);
static_assert(policies<tensor<4>, data<dynamic>>::mesh_size() == dynamic);
static_assert(std::same_as<policies<optimizer::lion, data<2>>::optimizer, optimizer::lion>);
static_assert(std::same_as<policies<>::precision, precision::fp32>);
static_assert(std::same_as<policies<>::arithmetic, arithmetic::bitwise>);
int main() {}

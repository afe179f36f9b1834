// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: tenon::nn::moe: sequence_parallel with a mixture of experts.*Fix:
#include <tenon/comm/threads.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/trainer.hpp>
template class tenon::trainer<tenon::models::mixtral<>, tenon::tensor<2>, tenon::sequence_parallel,
                              tenon::comm::threads>;

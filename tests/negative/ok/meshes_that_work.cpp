// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/comm/threads.hpp>
#include <tenon/models/gpt2.hpp>
#include <tenon/models/llama.hpp>
#include <tenon/models/mixtral.hpp>
#include <tenon/train/trainer.hpp>
using namespace tenon;
template <class Model, class... Ps>
constexpr bool works = train::check_trainer<Model, Ps..., comm::threads>();
static_assert(works<models::gpt2_124m, data<3>, zero<1>, tensor<4>, sequence_parallel, pipeline<3, interleaved<4>>>);
static_assert(works<models::gpt2_124m, data<6>, zero<3, hybrid<3>>, context<4>>);
static_assert(works<models::gpt2<>, data<dynamic>, tensor<dynamic>, context<dynamic>, pipeline<dynamic>>);
static_assert(works<models::gpt2_124m, context<3>, arithmetic::fast>);
using grouped = models::llama<llama_config{.layers = 2, .width = 512, .heads = 8, .kv_heads = 4, .context = 512}>;
static_assert(works<grouped, tensor<2>, context<2, all_to_all>>);
static_assert(works<grouped, tensor<4>, context<4, all_gather>>);
static_assert(works<grouped, data<2>, zero<2>, optimizer::muon>);
using mixture = models::mixtral<mixtral_config{.layers = 2, .width = 128, .heads = 8, .context = 64, .experts = 6}>;
static_assert(works<mixture, expert<3>, data<2>, tensor<8>>);
int main() {}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// ctest: LABELS parallel TIMEOUT 600
#include <parallel/on_mesh.hpp>

#include <initializer_list>
#include <tuple>
#include <utility>

#include <tenon/train/plan.hpp>

using namespace on_mesh_test;

namespace {

using deep_gpt =
    models::gpt2<gpt2_config{.layers = 9, .width = 64, .heads = 4, .context = 40, .vocabulary = 67, .bias = false}>;
using long_llama = models::llama<llama_config{
    .layers = 2, .width = 64, .heads = 4, .kv_heads = 4, .hidden = 96, .context = 512, .vocabulary = 67}>;
/// No expert takes more than its share, so that what a rank is sent has an upper bound.
using fair_mixtral = models::mixtral<mixtral_config{.layers = 3,
                                                    .width = 64,
                                                    .heads = 4,
                                                    .kv_heads = 2,
                                                    .hidden = 80,
                                                    .context = 40,
                                                    .vocabulary = 67,
                                                    .experts = 4,
                                                    .capacity_factor = 1}>;

/// Each rank of a trainer holds what is foretold for it, to the byte.
/// @param meshes each with sequences and micro-batches of a step
template <class Model, class... Ps>
void check(std::initializer_list<std::tuple<comm::mesh_shape, index_t, index_t>> meshes) {
  using line = trainer<Model, comm::threads, Ps...>;
  for (auto const& [mesh, batch, accumulate] : meshes) {
    struct {
      index_t state, activations;
    } measured[16];
    auto o = options(batch, accumulate, mesh);
    if (Model::config.context > 100) o.sequence_length = 512;
    auto const s = train::strategy_of<line>({batch, accumulate, o.sequence_length, mesh}, Model::config.context);
    CAPTURE(comm::to_string(s.mesh));
    CAPTURE(batch);
    CAPTURE(accumulate);
    index_t const tokens = batch * o.sequence_length;
    std::vector<std::int32_t> text(std::size_t(tokens) + 1);
    for (std::size_t i = 0; i < text.size(); ++i) text[i] = std::int32_t(i * i * 31 % 67);
    comm::threads::run(int(s.mesh.size()), [&, &o = o](comm::threads& world) {
      line t{world, o};
      t.step(std::span(text).first(std::size_t(tokens)), std::span(text).last(std::size_t(tokens)));
      measured[world.rank()] = {index_t(t.state_bytes()), index_t(t.activation_bytes())};
    });
    for (int r = 0; r < int(s.mesh.size()); ++r) {
      int rest = r;
      auto const next = [&](int n) { return std::exchange(rest, rest / n) % n; };
      parallel::rank_place at;
      at.tensor = next(s.mesh.tensor), at.context = next(s.mesh.context), at.expert = next(s.mesh.expert);
      at.data = next(s.mesh.data), at.pipeline = rest;
      auto const f = parallel::footprint_of(Model::shape(Model::config), s, at);
      CAPTURE(r);
      CHECK(f.state() == measured[r].state);
      CHECK(f.activations == measured[r].activations);
    }
  }
}
using any_data = data<dynamic>;
using any_tensor = tensor<dynamic>;

}  // namespace

TEST_CASE("bytes of data and tensor parallelism and zero, 27 configurations") {
  check<cut_gpt, any_data, any_tensor>({{{}, 8, 1},
                                        {{}, 8, 4},
                                        {{}, 24, 3},
                                        {{.data = 2}, 8, 2},
                                        {{.data = 3}, 12, 2},
                                        {{.tensor = 2}, 4, 2},
                                        {{.tensor = 8}, 4, 1},
                                        {{.data = 2, .tensor = 4}, 8, 4}});
  check<gpt, any_data, zero<1>, precision::bf16_mixed, optimizer::lion>(
      {{{.data = 2}, 8, 1}, {{.data = 3}, 12, 4}, {{.data = 4}, 8, 2}});
  check<untied_gpt, any_data, any_tensor, zero<2>, precision::fp16_mixed, memory::recompute_full>(
      {{{.data = 2}, 8, 1}, {{.data = 4}, 8, 2}, {{.data = 3}, 12, 1}, {{.data = 2, .tensor = 2}, 8, 4}});
  check<cut_llama, any_data, any_tensor, zero<3>, precision::bf16_mixed, memory::recompute_selective>(
      {{{.data = 2}, 8, 1}, {{.data = 4}, 8, 2}, {{.data = 2, .tensor = 4}, 8, 1}, {{.data = 3}, 6, 1}});
  check<llama, any_data, zero<3, hybrid<2>>, optimizer::sgd>(
      {{{.data = 2}, 8, 2}, {{.data = 4}, 8, 1}, {{.data = 6}, 12, 1}});
  check<gpt, any_data, zero<2>, optimizer::muon>({{{.data = 2}, 8, 1}, {{.data = 4}, 16, 2}});
  check<cut_llama, any_tensor, sequence_parallel, memory::recompute_selective>(
      {{{.tensor = 2}, 4, 2}, {{.tensor = 4}, 12, 3}});
  check<gpt, memory::offload<memory::file_backed, memory::activations>, precision::bf16_mixed>({{{}, 4, 2}});
}
TEST_CASE("bytes of pipelines, 19 configurations") {
  check<deep_gpt, any_data, any_tensor, pipeline<dynamic, one_f_one_b>, zero<1>>(
      {{{.data = 2}, 8, 4},
       {{.pipeline = 2}, 8, 4},
       {{.pipeline = 4}, 8, 8},
       {{.data = 2, .pipeline = 3}, 12, 6},
       {{.data = 2, .tensor = 2, .pipeline = 2}, 16, 4}});
  check<deep_gpt, pipeline<dynamic, gpipe>, memory::recompute_full, precision::bf16_mixed>(
      {{{.pipeline = 2}, 8, 4}, {{.pipeline = 3}, 8, 8}, {{}, 8, 2}});
  check<deep_gpt, any_data, pipeline<dynamic, interleaved<2>>>(
      {{{.pipeline = 2}, 8, 4}, {{.pipeline = 4}, 8, 8}, {{.data = 2, .pipeline = 2}, 8, 2}, {{}, 4, 2}});
  check<deep_gpt, any_tensor, pipeline<dynamic, zero_bubble>>(
      {{{.pipeline = 2}, 8, 4}, {{.pipeline = 4}, 8, 8}, {{.tensor = 2, .pipeline = 2}, 4, 4}});
  check<deep_gpt, any_tensor, pipeline<dynamic, zero_bubble>, memory::recompute_selective, sequence_parallel>(
      {{{.tensor = 2, .pipeline = 2}, 8, 4}, {{.tensor = 2, .pipeline = 3}, 8, 4}, {{.tensor = 4}, 16, 4}});
  check<cut_llama, pipeline<dynamic, zero_bubble>, memory::recompute_full>({{{.pipeline = 2}, 8, 4}});
}
TEST_CASE("bytes of context and expert parallelism, 15 configurations") {
  check<long_llama, any_data, context<dynamic>>(
      {{{}, 2, 1}, {{.context = 2}, 2, 2}, {{.data = 2, .context = 2}, 2, 1}, {{.context = 4}, 4, 4}});
  check<long_llama, any_data, context<dynamic, all_to_all>, zero<3>, memory::recompute_full>(
      {{{.data = 2, .context = 2}, 2, 1}, {{.data = 2, .context = 4}, 4, 2}});
  check<long_llama, any_tensor, context<dynamic, all_gather>, precision::bf16_mixed>(
      {{{.context = 2}, 1, 1}, {{.tensor = 2, .context = 2}, 1, 1}});
  check<mixtral, any_data, any_tensor>({{{}, 4, 2}, {{.data = 2}, 8, 2}});
  check<fair_mixtral, any_data, any_tensor, expert<dynamic>, zero<1>>({{{.data = 2, .expert = 2}, 8, 1},
                                                                       {{.data = 2, .expert = 4}, 8, 1},
                                                                       {{.data = 2, .tensor = 2, .expert = 2}, 8, 2}});
  check<fair_mixtral, expert<dynamic>, pipeline<dynamic>, memory::recompute_selective, precision::bf16_mixed>(
      {{{.expert = 2}, 4, 1}, {{.pipeline = 3, .expert = 2}, 8, 4}});
}

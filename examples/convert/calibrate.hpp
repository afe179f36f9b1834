// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
// What the matrices of a model are multiplied with when it reads a text.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tenon/ops/host/calibrate.hpp>
#include <tenon/ops/host/gemm.hpp>

#include "../any_model/reader.hpp"
#include "metadata.hpp"

#include <unistd.h>

namespace convert {

/// The second moments of the inputs of each matrix, of a text in chunks of at most 512 tokens. The output matrix has
/// none.
class calibration final : tenon::nn::weight_source, tenon::nn::input_watcher {
 public:
  calibration(tenon::exec::host_context& context, io::path const& model, io::path const& text)
      : exec(context), file(model), weights(context, file) {
    if (file.has_experts())
      throw tenon::file_error(model.string(),
                              "is a mixture of experts, and few tokens of a text come to each. Fix: "
                              "convert it without --calibrate.");
    index_t const longest =
        tenon::infer::with_model(file, [](auto, auto const& shape) { return std::min<index_t>(512, shape.context); });
    auto const chunks = tenon::chunks_of(text, file.tokenizer(), longest);
    tenon::reader network(exec, file, *this, longest);
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (isatty(STDERR_FILENO)) std::fprintf(stderr, "reading chunk %zu of %zu\033[K\r", i + 1, chunks.size());
      network.read(chunks[i], 0, index_t(chunks[i].size()), {});
    }
    if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\033[K");
  }
  /// For ops::quantize_for_inputs, until the next call; empty for what is no matrix of a layer.
  tenon::matrix_view<double const> feedback(std::string_view gguf_name) {
    auto const found = inputs.find(gguf_name);
    if (found == inputs.end()) return {};
    auto& m = moments.at(found->second);
    if (made_of != found->second) {
      made_of = found->second;
      made.resize(m.values.size());
      tenon::ops::input_feedback(
          exec, tenon::ops::input_feedback_args{tenon::as_const(tenon::matrix(m.values.data(), m.size, m.size)),
                                                tenon::matrix(made.data(), m.size, m.size)});
    }
    return tenon::as_const(tenon::matrix(made.data(), m.size, m.size));
  }

 private:
  struct square {
    index_t size = 0;
    std::vector<float> values{};
  };

  tenon::weight_view matrix(std::string const& name, index_t rows, index_t cols) override {
    auto const view = weights.matrix(name, rows, cols);
    if (auto const renamed = models::gguf_weight_name(file.architecture(), name)) names[view.data] = renamed->name;
    return view;
  }
  float const* vector(std::string const& name, index_t size) override { return weights.vector(name, size); }
  tenon::weight_view columns(tenon::weight_view whole, index_t first, index_t count) override {
    return weights.columns(whole, first, count);
  }
  float const* keep(std::vector<float> values) override { return weights.keep(std::move(values)); }
  tenon::nn::input_watcher* watcher() override { return this; }

  void see(tenon::nn::stored_matrix const& weight, tenon::matrix_view<float const> x) override {
    auto const* const key = weight.pieces[0].data;
    auto& m = moments[key];
    if (m.size == 0) {
      m.size = x.extent(1);
      m.values.resize(std::size_t(m.size * m.size));
      for (auto const& piece : weight.pieces) inputs[names.at(piece.data)] = key;
    }
    tenon::ops::gemm(exec,
                     tenon::ops::gemm_args<float, float, float>{.c = tenon::matrix(m.values.data(), m.size, m.size),
                                                                .a = tenon::transposed(x),
                                                                .b = x,
                                                                .accumulate = true});
  }

  tenon::exec::host_context& exec;
  tenon::infer::model_file file;
  tenon::infer::file_weights weights;
  std::map<std::byte const*, std::string> names;                ///< in GGUF, by where the values lie
  std::map<std::string, std::byte const*, std::less<>> inputs;  ///< the first of the matrices that are read together
  std::map<std::byte const*, square> moments;
  std::vector<double> made;  ///< of the moments `made_of`
  std::byte const* made_of = nullptr;
};

}  // namespace convert

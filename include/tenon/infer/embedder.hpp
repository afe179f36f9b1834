// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Texts to vectors, which are near each other where the texts mean the same.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/infer/model_file.hpp>
#include <tenon/models/bert.hpp>
#include <tenon/ops/host/activation.hpp>
#include <tenon/ops/host/attention_forward.hpp>
#include <tenon/ops/host/elementwise.hpp>
#include <tenon/ops/host/norm.hpp>
#include <tenon/policy/arithmetic.hpp>
#include <tenon/policy/memory.hpp>
#include <tenon/policy/set.hpp>

namespace tenon {

/// What of a text's last states makes its vector: the mean of all, or that of the first token.
enum class pooling { mean, cls };

struct embedder_options {
  index_t longest = 0;               ///< tokens of a text; 0: as the folder says, or the model's context
  std::optional<pooling> pool = {};  ///< nothing: as the file says, or the mean
  index_t token_budget = 4096;       ///< of texts that are worked on together
  int threads = 0;                   ///< 0: all processors
};

namespace infer {

/// A pass over whole sequences, one behind the other.
template <Arithmetic Order>
struct encoder_pass : nn::pass<exec::host_context, Order, memory::recompute_full> {
  static constexpr bool forward_only = true;
  void attend(ops::attention_options const& o, matrix_view<float const> qkv, matrix_view<float> heads) {
    arena_scope scope(this->exec.scratch());
    auto const unread = this->exec.scratch().template allocate_matrix<float>(o.query_heads, this->tokens());
    ops::attention_forward(this->exec, nn::detail::forward_args(o, this->sequence_begins, qkv, heads, unread));
  }
};

}  // namespace infer

/// An encoder (models::bert), bound to its file, that makes a vector of length 1 of each text. A text's vector is a
/// function of the file and the text alone: neither its neighbours nor threads change a bit (contract B).
///
///     tenon::embedder<> e{"all-MiniLM-L6-v2"};
///     std::vector const texts{e.tokens("a joint of wood").ids, e.tokens("a mortise and a tenon").ids};
///     std::vector<float> vectors(texts.size() * e.width());
///     e.embed(texts, tenon::matrix(vectors.data(), texts.size(), e.width()));
///
/// @tparam Ps arithmetic::...   @source Reimers and Gurevych 2019, arXiv:1908.10084
/// @test tests/infer/model_file_test.cpp, tests/parity/embed_test.py
template <class... Ps>
class embedder {
 public:
  using arithmetic = typename detail::select_policy<arithmetic_axis, tenon::arithmetic::bitwise, Ps...>::type;

  /// @error file_error when the file is no encoder; argument_error when options do not fit it
  explicit embedder(std::filesystem::path const& model, embedder_options const& options = {});
  embedder(embedder const&) = delete;

  index_t width() const { return net.width(); }
  index_t longest() const { return settings.longest; }
  pooling pool() const { return *settings.pool; }

  struct text_tokens {
    std::vector<std::int32_t> ids;
    index_t left_out = 0;  ///< so many more were there than `longest()`
  };
  /// The tokens of a text. Of one that is too long the end is left out, but not the last special token.
  text_tokens tokens(std::string_view text) const {
    text_tokens t{words.encode(text)};
    t.left_out = std::max<index_t>(0, index_t(t.ids.size()) - longest());
    auto const cut = t.ids.end() - std::ptrdiff_t(words.parts().after.size());
    t.ids.erase(cut - t.left_out, cut);
    return t;
  }
  /// @shape out [texts, width()]
  /// @error argument_error when a text has no tokens, too many or others than the vocabulary, or `out` has another shape
  void embed(std::span<std::vector<std::int32_t> const> texts, matrix_view<float> out) {
    for (auto const& t : texts) check(t);
    if (out.extent(0) != index_t(texts.size()) || out.extent(1) != width())
      throw argument_error("tenon::embedder: " + std::to_string(texts.size()) + " vectors of " +
                           std::to_string(width()) + " do not go to a matrix [" + std::to_string(out.extent(0)) + ", " +
                           std::to_string(out.extent(1)) + "]. Fix: a row for each text, of width().");
    for (std::size_t first = 0, last = 0; first < texts.size(); first = last) {
      std::size_t count = 0;
      do count += texts[last++].size();
      while (last < texts.size() && count + texts[last].size() <= std::size_t(settings.token_budget));
      run(texts.subspan(first, last - first), rows_of(out, index_t(first), index_t(last - first)));
    }
  }

 private:
  nn::encoder network() {
    auto const said = file.use_of_texts();
    if (!settings.pool) settings.pool = said.takes_first ? pooling::cls : pooling::mean;
    if (settings.longest == 0) settings.longest = std::min(config.context, said.longest.value_or(config.context));
    index_t const special = index_t(words.parts().before.size() + words.parts().after.size());
    if (settings.longest <= special || settings.longest > config.context)
      throw argument_error("tenon::embedder: longest is " + std::to_string(settings.longest) +
                           ", and the model reads " + std::to_string(special + 1) + " to " +
                           std::to_string(config.context) + " tokens. Fix: a number between them.");
    return models::bert::network(config);
  }
  bert_config shape() const {
    if (file.architecture().family != models::bert_names)
      throw file_error(file.path().string(), "is a " + std::string(file.architecture().gguf) +
                                                 ", which continues texts. Fix: tenon::engine, or an encoder (bert).");
    auto const c = file.config<bert_config>();
    if (char const* const problem = models::bert::problem(c))
      throw file_error(file.path().string(), std::string("has a shape that cannot be: ") + problem);
    return c;
  }
  void check(std::vector<std::int32_t> const& text) const {
    if (text.empty() || index_t(text.size()) > longest())
      throw argument_error("tenon::embedder: a text has " + std::to_string(text.size()) +
                           " tokens. Fix: 1 to embedder_options::longest, here " + std::to_string(longest()) + ".");
    for (auto const t : text)
      if (t < 0 || t >= net.words.vocabulary)
        throw argument_error("tenon::embedder: a text has the token " + std::to_string(t) +
                             ", and the vocabulary has " + std::to_string(net.words.vocabulary) +
                             ". Fix: tokens of this model's tokenizer.");
  }
  void run(std::span<std::vector<std::int32_t> const> texts, matrix_view<float> out);
  /// The direction of the sum, which is that of the mean. In fp64, one row after the other, then one square after the
  /// other: products of two fp32 numbers are exact there, so that contraction changes nothing.
  void unite(matrix_view<float const> states, float* out) {
    sums.assign(std::size_t(width()), 0);
    for (index_t r = 0; r < states.extent(0); ++r)
      for (index_t k = 0; k < width(); ++k) sums[std::size_t(k)] += double(states(r, k));
    double squares = 0;
    for (double& s : sums) {
      s = double(float(s));
      squares += s * s;
    }
    double const length = std::sqrt(squares);
    for (index_t k = 0; k < width(); ++k) out[k] = float(sums[std::size_t(k)] / length);
  }

  infer::model_file file;
  embedder_options settings;
  exec::host_context exec;
  infer::file_weights weights;
  bert_config config;
  text::tokenizer words;
  nn::encoder net;
  nn::encoder::parameters<nn::stored const> parameters;
  nn::encoder::saved<float> saved;
  arena memory;
  std::vector<std::int32_t> ids;
  std::vector<index_t> positions, begins;
  std::vector<double> sums;
};

// Outside of the class, so that they are compiled once where it is declared `extern template`.
template <class... Ps>
embedder<Ps...>::embedder(std::filesystem::path const& model, embedder_options const& options)
    : file(model), settings(options),
      exec(options.threads > 0 ? options.threads : std::max(1, int(std::thread::hardware_concurrency()))),
      weights(exec, file), config(shape()), words(file.tokenizer()), net(network()) {
  nn::binder<nn::stored const> read(weights);
  parameters = net.bind(read);
}

template <class... Ps>
void embedder<Ps...>::run(std::span<std::vector<std::int32_t> const> texts, matrix_view<float> out) {
  ids.clear(), positions.clear(), begins.assign(1, 0);
  for (auto const& t : texts) {
    ids.insert(ids.end(), t.begin(), t.end());
    for (std::size_t i = 0; i < t.size(); ++i) positions.push_back(index_t(i));
    begins.push_back(index_t(ids.size()));
  }
  auto const mark = memory.mark();
  infer::encoder_pass<arithmetic> pass{
      {.exec = exec, .saved = memory, .positions = positions, .sequence_begins = begins, .sequence_length = 1}};
  auto const states = net.forward(pass, parameters, std::span<std::int32_t const>(ids), saved);
  for (index_t i = 0; i < out.extent(0); ++i) {
    index_t const first = begins[std::size_t(i)], end = begins[std::size_t(i) + 1];
    unite(rows_of(states, first, pool() == pooling::cls ? 1 : end - first), &out(i, 0));
  }
  memory.release(mark);
}

}  // namespace tenon

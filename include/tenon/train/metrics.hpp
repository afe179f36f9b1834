// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <tenon/core/json_text.hpp>
#include <tenon/core/view.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/mapped_file.hpp>

namespace tenon {

/// One step of a run, one line of a metrics file.
struct step_metrics {
  index_t step = 0;
  double loss = 0;
  double learning_rate = 0;
  double grad_norm = 0;
  double tokens_per_second = 0;
  std::optional<double> validation_loss{};
};

/// A step as one line of JSON. Numbers are the shortest that read back as the same.
inline std::string metrics_line(step_metrics const& m) {
  std::string out = "{\"step\":";
  append_json_number(out, m.step);
  auto const field = [&](char const* name, double value) {
    ((out += ",\"") += name) += "\":";
    append_json_number(out, value);
  };
  field("loss", m.loss);
  field("learning_rate", m.learning_rate);
  field("grad_norm", m.grad_norm);
  field("tokens_per_second", m.tokens_per_second);
  if (m.validation_loss) field("validation_loss", *m.validation_loss);
  return out += "}\n";
}

namespace train {

/// The number under `key` in a line of ours: null is NaN, an absent key nothing.
/// @return false when there is something else under the key
inline bool read_metrics_number(std::string_view line, std::string_view key, std::optional<double>& value) {
  std::string const mark = "\"" + std::string(key) + "\":";
  auto const at = line.find(mark);
  if (at == std::string_view::npos) return true;
  std::string_view rest = line.substr(at + mark.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  if (rest.substr(0, 4) == "null") return value = std::numeric_limits<double>::quiet_NaN(), true;
  double number = 0;
  auto const r = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  value = number;
  return r.ec == std::errc();
}
/// One line without its end; nothing when it is no line of a metrics file.
inline std::optional<step_metrics> parse_metrics_line(std::string_view line) {
  if (line.size() < 2 || line.front() != '{' || line.back() != '}') return {};
  std::optional<double> step, loss, rate, norm, speed, validation;
  bool const good = read_metrics_number(line, "step", step) && read_metrics_number(line, "loss", loss) &&
                    read_metrics_number(line, "learning_rate", rate) && read_metrics_number(line, "grad_norm", norm) &&
                    read_metrics_number(line, "tokens_per_second", speed) &&
                    read_metrics_number(line, "validation_loss", validation);
  if (!good || !step || !(*step >= 0 && *step < 1e15)) return {};
  return step_metrics{index_t(*step),   loss.value_or(0),  rate.value_or(0),
                      norm.value_or(0), speed.value_or(0), validation};
}

}  // namespace train

/// Reads a metrics file. A last line without an end, which a killed run leaves, is left out.
/// @error file_error: the file is missing, or a line is not of this kind (its number is named)
inline std::vector<step_metrics> read_metrics(io::path const& file) {
  io::mapped_file const content(file);
  std::string_view rest(reinterpret_cast<char const*>(content.bytes().data()), content.size());
  std::vector<step_metrics> all;
  for (auto end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
    auto const m = train::parse_metrics_line(rest.substr(0, end));
    if (!m)
      throw file_error(file.string(),
                       "line " + std::to_string(all.size() + 1) +
                           " is not one of training metrics. Fix: move the file away, or use another folder.");
    all.push_back(*m);
    rest.remove_prefix(end + 1);
  }
  return all;
}

/// Appends one line per step to a JSON-lines file; each line is one write, so a killed run leaves whole lines.
/// @error file_error   @test tests/train/metrics_test.cpp
class metrics_writer {
 public:
  /// Continues the file after step `resumed_step`: later lines, which a killed run wrote after its last checkpoint, are
  /// dropped, all at once. 0 begins a new file. Makes the folders above.
  metrics_writer(io::path file, index_t resumed_step) : name(std::move(file)) {
    io::path const folder = io::detail::folder_of(name);
    std::error_code code;
    std::filesystem::create_directories(folder, code);
    if (code) io::detail::fail(folder, "cannot create the folder", code.value());
    std::string kept;
    if (resumed_step > 0 && std::filesystem::exists(name, code))
      for (auto const& m : read_metrics(name))
        if (m.step <= resumed_step) kept += metrics_line(m);
    io::write_file_atomically(name, kept);
    out = io::detail::descriptor::open(name, O_WRONLY | O_APPEND);
    if (!out) io::detail::fail(name, "cannot write", errno);
  }
  /// Takes anything with the fields of `step_metrics`.
  template <class Step>
  void write(Step const& s) {
    std::string const line = metrics_line({index_t(s.step), double(s.loss), double(s.learning_rate),
                                           double(s.grad_norm), double(s.tokens_per_second), s.validation_loss});
    if (int const code = io::detail::write_all(out.get(), line.data(), line.size()))
      io::detail::fail(name, "cannot write", code);
  }
  io::path const& path() const { return name; }

 private:
  io::path name;
  io::detail::descriptor out;
};

}  // namespace tenon

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Receipts of steps in files: written by `fit`, compared by who does the steps again.
///
/// `steps.jsonl` has, of each step, what no mesh changes: hashes of the batch, of the loss, and of each parameter of the
/// whole model its gradient and what the update left. `rank-NNNN.jsonl` has what went through that rank, in order. Step 0
/// and a step that a run was resumed from have the state only.   @test tests/train/receipt_test.cpp
#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/comm/check.hpp>
#include <tenon/core/json_text.hpp>
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/parallel/receipt.hpp>
#include <tenon/train/checkpoint.hpp>

namespace tenon::receipt {

using json = nlohmann::ordered_json;

inline std::string rank_file(int rank) {
  char name[32];
  std::snprintf(name, sizeof name, "rank-%04d.jsonl", rank);
  return name;
}
inline constexpr char const* steps_file = "steps.jsonl";
/// Of a step, the numbers that are compared bit by bit.
struct step_numbers {
  double loss = 0, grad_norm = 0;
};

namespace detail {
inline void append_hash(std::string& out, std::uint64_t hash) {
  constexpr char const* digits = "0123456789abcdef";
  out += '"';
  for (int shift = 60; shift >= 0; shift -= 4) out += digits[hash >> shift & 15];
  out += '"';
}
inline std::string begin_line(index_t step, std::string const& mesh) {
  std::string out = "{\"step\":";
  append_json_number(out, step);
  out += ",\"mesh\":";
  append_json_string(out, mesh);
  return out;
}
/// What a rank did.
inline std::string rank_line(recorder const& r, std::string const& mesh) {
  std::string out = begin_line(r.step(), mesh) + ",\"items\":[";
  out.reserve(100 * r.items.size());
  for (auto const& i : r.items) {
    (out += out.back() == '[' ? "[\"" : ",[\"") += event_names[std::size_t(i.what)];
    out += "\",";
    append_json_number(out, i.micro_batch);
    out += ',';
    append_json_number(out, i.layer);
    out += ',';
    append_json_string(out, i.what == event::batch || i.of_layer() ? "" : r.name_of(i));
    out += ',';
    append_hash(out, i.hash);
    out += ']';
  }
  return out += "]}\n";
}
/// What no mesh changes.
inline std::string step_line(recorder const& r, std::string const& mesh, json const& run, step_numbers const* s) {
  std::string out = begin_line(r.step(), mesh) + ",\"run\":" + run.dump();
  auto const field = [&](char const* name, std::uint64_t hash) {
    ((out += ",\"") += name) += "\":";
    append_hash(out, hash);
  };
  if (s) {
    field("batch", r.items.front().hash);
    field("loss", std::bit_cast<std::uint64_t>(s->loss));
    field("grad_norm", std::bit_cast<std::uint64_t>(s->grad_norm));
  }
  auto const list = [&](char const* name, auto const& values, auto const& append) {
    ((out += ",\"") += name) += "\":[";
    for (auto const& v : values) {
      if (out.back() != '[') out += ',';
      append(out, v);
    }
    out += ']';
  };
  if (!s) list("names", r.names, append_json_string);
  for (std::size_t t = s ? 0 : 1; t < r.totals.size(); ++t) list(total_names[t], r.totals[t], append_hash);
  return out += "}\n";
}

/// f(step, line) for the whole lines of a file, in order; returns where they end.
template <class F>
std::size_t for_each_line(io::path const& file, F&& f) {
  std::error_code none;
  if (std::filesystem::file_size(file, none) == 0 && !none) return 0;
  io::mapped_file const content(file);
  std::string_view const all(reinterpret_cast<char const*>(content.bytes().data()), content.size());
  std::size_t at = 0;
  for (index_t number = 1;; ++number) {
    auto const end = all.find('\n', at);
    if (end == std::string_view::npos) return at;
    std::string_view const line = all.substr(at, end - at), begin = "{\"step\":";
    index_t step = -1;
    if (line.substr(0, begin.size()) == begin)
      std::from_chars(line.data() + begin.size(), line.data() + line.size(), step);
    if (step < 0 || line.back() != '}')
      throw file_error(file.string(), "line " + std::to_string(number) +
                                          " is no receipt. Fix: move the file away, or use another folder.");
    if (!f(step, line)) return at;
    at = end + 1;
  }
}
/// Cuts off what a killed run wrote behind step `last`, the half of a line too.
inline void cut_behind(io::path const& file, index_t last) {
  auto const end = for_each_line(file, [&](index_t step, std::string_view) { return step <= last; });
  std::error_code code;
  std::filesystem::resize_file(file, end, code);
  if (code) io::detail::fail(file, "cannot cut", code.value());
}
/// The lines of steps [from, to].
inline std::map<index_t, json> read_lines(io::path const& file, index_t from, index_t to) {
  std::map<index_t, json> lines;
  for_each_line(file, [&](index_t step, std::string_view line) {
    if (step < from || step > to) return step <= to;
    auto parsed = json::parse(line, nullptr, false);
    if (!parsed.is_object())
      throw file_error(file.string(), "the line of step " + std::to_string(step) +
                                          " is broken. Fix: copy the file again from where it was written.");
    lines[step] = std::move(parsed);
    return true;
  });
  return lines;
}
}  // namespace detail

/// The step that receipts begin behind, and the last.
/// @error file_error: there are none
inline std::pair<index_t, index_t> recorded_steps(io::path const& folder) {
  std::pair<index_t, index_t> steps{-1, -1};
  std::error_code none;
  io::path const file = folder / steps_file;
  if (!std::filesystem::exists(file, none))
    throw file_error(file.string(),
                     "there are no receipts. Fix: make the run with fit_options::receipts (--receipts).");
  detail::for_each_line(file, [&](index_t step, std::string_view) {
    if (steps.second < 0 || step != steps.second + 1) steps.first = step;
    steps.second = step;
    return true;
  });
  if (steps.second < 0) throw file_error(file.string(), "has no whole line. Fix: a run that did a step.");
  return steps;
}

namespace detail {
/// The numbers that decide what a step does, whatever the mesh. @param run what a checkpoint says of itself
template <class Options>
json describe_run(json run, Options const& o) {
  for (char const* progress : {"format", "steps", "samples", "loss_scale", "loss_scale_good_steps"})
    run.erase(progress);
  run["batch"] = o.batch;
  run["learning_rate"] = o.learning_rate;
  run["warmup_steps"] = o.schedule.warmup_steps;
  run["total_steps"] = o.schedule.total_steps;
  run["clip"] = o.clip;
  auto const& u = o.optimizer;
  run["update"] = {u.beta1, u.beta2, u.epsilon, u.weight_decay, u.momentum, double(u.nesterov), u.adam_ratio};
  return run;
}

/// The files of one rank.
class files {
 public:
  receipt::recorder recorder;

  files(io::path folder_of_run, int number, json description, std::string ranks)
      : folder(std::move(folder_of_run)), rank(number), run(std::move(description)), mesh(std::move(ranks)) {}
  /// By rank 0, before any opens its own: the folder, and what lies in it cut behind `step`.
  void prepare(index_t step) const {
    if (rank != 0) return;
    std::error_code code;
    std::filesystem::create_directories(folder, code);
    if (code) io::detail::fail(folder, "cannot create the folder", code.value());
    for (auto const& entry : std::filesystem::directory_iterator(folder))
      if (entry.path().extension() == ".jsonl") {
        if (step > 0) cut_behind(entry.path(), step);
        else std::filesystem::remove(entry.path());
      }
  }
  void open() {
    mine = open(folder / rank_file(rank));
    if (rank == 0) steps = open(folder / steps_file);
  }
  /// The state that the run begins with is what the receipt of that step says, or is written down where there is none.
  void check_state() const {
    if (rank != 0) return;
    io::path const file = folder / steps_file;
    auto const line = step_line(recorder, mesh, run, nullptr);
    auto const written = read_lines(file, recorder.step(), recorder.step());
    if (written.empty()) return put(steps, steps_file, line);
    auto const found = json::parse(line);
    for (std::size_t t = 1; t < total_names.size(); ++t)
      if (auto const& then = written.begin()->second; then.value(total_names[t], json()) != found.at(total_names[t]))
        throw file_error(file.string(), "the state after step " + std::to_string(recorder.step()) + " (" +
                                            total_names[t] +
                                            ") is not what the run had then: the checkpoint was damaged before it "
                                            "was written. Fix: remove that checkpoint to resume from an older one.");
  }
  void write(step_numbers const& s) const {
    put(mine, rank_file(rank), rank_line(recorder, mesh));
    if (rank == 0) put(steps, steps_file, step_line(recorder, mesh, run, &s));
  }

 private:
  static io::detail::descriptor open(io::path const& file) {
    auto made = io::detail::descriptor::open(file, O_WRONLY | O_APPEND | O_CREAT);
    if (!made) io::detail::fail(file, "cannot write", errno);
    return made;
  }
  void put(io::detail::descriptor const& to, std::string const& name, std::string const& line) const {
    if (int const code = io::detail::write_all(to.get(), line.data(), line.size()))
      io::detail::fail(folder / name, "cannot write", code);
  }
  io::path folder;
  int rank;
  json run;
  std::string mesh;
  io::detail::descriptor mine, steps;
};
}  // namespace detail

/// Writes receipts of a trainer's steps while it lives. Every rank makes one and calls the same functions.
/// @error file_error: the folder cannot be written, or the state is not what it says of this step
template <class World>
class keeper {
 public:
  /// @param text what the data is, e.g. a digest @param fault for tests
  keeper(train::any_trainer<World> const& t, io::path const& folder, std::string const& text = "",
         std::optional<flip> const& fault = {})
      : trainer(t),
        files(folder, t.world.rank(), detail::describe_run(train::describe(t, text), t.options), ranks_of(t)) {
    agree([&] { files.prepare(t.steps); });
    agree([&] { files.open(); });
    if (fault && fault->rank == t.world.rank()) files.recorder.fault = fault;
    try {
      trainer.record_receipts(&files.recorder);
      agree([&] { files.check_state(); });
    } catch (...) {
      trainer.record_receipts(nullptr);
      throw;
    }
  }
  ~keeper() { trainer.record_receipts(nullptr); }
  keeper(keeper const&) = delete;
  keeper& operator=(keeper const&) = delete;

  /// The step that was done.
  void write(step_numbers const& s) const { files.write(s); }

 private:
  /// On which two runs do the same things, rank by rank.
  static std::string ranks_of(train::any_trainer<World> const& t) {
    return to_string(t.mesh) + ", zero " + std::to_string(t.zero) + ", accumulate " +
           std::to_string(t.options.accumulate) + (t.sequence_parallel ? ", sequence_parallel" : "");
  }
  template <class F>
  void agree(F&& part) {
    comm::agree<file_error>(trainer.world, part);
  }
  train::any_trainer<World> trainer;
  detail::files files;
};

/// The first thing in which a run is not what was computed again.
struct deviation {
  index_t step = 0;
  std::vector<int> ranks{};  ///< several when they computed it together; none: not known
  std::string event{};       ///< of `event_names`, or a field of steps.jsonl
  index_t micro_batch = -1, layer = -2;
  std::string tensor{};
  std::string expected{}, got{};  ///< computed again, and in the run
  std::string sentence{};
};
/// What comparing came to.
struct comparison {
  index_t steps = 0, hashes = 0;
  bool ranks = false;  ///< what each rank did was compared too, because the mesh is the same
  std::optional<deviation> first{};
};

namespace detail {

/// Where an item is in the flow of data, over all ranks.
inline auto place_of(json const& item) {
  auto const what = std::size_t(std::find(event_names.begin(), event_names.end(), item.at(0).get<std::string>()) -
                                event_names.begin());
  auto const layer = item.at(2).get<index_t>();
  bool const forward = what >= std::size_t(event::read) && what <= std::size_t(event::received),
             backward = what >= std::size_t(event::read_back) && what <= std::size_t(event::received_back);
  std::size_t const part = forward ? std::size_t(event::read) : backward ? std::size_t(event::read_back) : what;
  return std::tuple(part, forward ? layer : backward ? -layer : 0, what, item.at(1).get<index_t>());
}
inline std::string words_of(deviation const& d, index_t layers) {
  std::string const layer = d.layer < 0         ? "the embedding"
                            : d.layer == layers ? "the head"
                                                : "layer " + std::to_string(d.layer);
  auto const& e = d.event;
  if (e == "batch") return "the batch of tokens and targets";
  if (e == "forward") return "the hidden state that " + layer + " gave";
  if (e == "received") return "the hidden state of " + layer + " as it was received";
  if (e == "backward") return "the gradient that came back from " + layer;
  if (e == "received_back") return "the gradient that came back from " + layer + " as it was received";
  if (e == "read" || e == "read_back") return d.tensor + " as the blocks read it";
  if (e == "gradient") return "the gradient of " + d.tensor;
  if (e == "gradient_sum") return "the sum over the rank's micro-batches of the gradient of " + d.tensor;
  if (e == "reduced") return "the gradient of " + d.tensor + ", reduced,";
  if (e == "spread") return "the gradient of " + d.tensor + " as the update reads it";
  if (e == "after") return d.tensor + " behind the update";
  return d.tensor.empty() ? "the " + e : "'" + e + "' of " + d.tensor + " over all ranks";
}
inline void complete(deviation& d, index_t layers) {
  std::string ranks;
  for (std::size_t i = 0; i < d.ranks.size(); ++i)
    ranks += (i == 0 ? "" : i + 1 == d.ranks.size() ? " and " : ", ") + std::to_string(d.ranks[i]);
  d.sentence = "step " + std::to_string(d.step) +
               (d.micro_batch < 0 ? "" : ", micro-batch " + std::to_string(d.micro_batch)) + ": " +
               words_of(d, layers) +
               (d.ranks.empty()       ? ""
                : d.ranks.size() == 1 ? " on rank " + ranks
                                      : " on ranks " + ranks + ", which compute it together,") +
               " was " + d.got + " in the run and is " + d.expected + " when computed again.";
}
/// Of what each rank did; false when the two did not do the same things.
inline bool compare_ranks(std::vector<std::pair<json, json>> const& ranks, comparison& c, deviation& d) {
  using place = decltype(place_of(json()));
  std::optional<place> first;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    auto const &run = ranks[r].first.at("items"), &again = ranks[r].second.at("items");
    if (run.size() != again.size()) return false;
    c.hashes += index_t(run.size());
    for (std::size_t i = 0; i < run.size(); ++i) {
      for (std::size_t k = 0; k < 4; ++k)
        if (run[i].at(k) != again[i].at(k)) return false;
      if (run[i].at(4) == again[i].at(4)) continue;
      auto const here = place_of(run[i]);
      if (!first || here < *first) {
        first = here;
        d.ranks.clear();
        run[i].at(0).get_to(d.event), run[i].at(1).get_to(d.micro_batch), run[i].at(2).get_to(d.layer);
        run[i].at(3).get_to(d.tensor), again[i].at(4).get_to(d.expected), run[i].at(4).get_to(d.got);
      }
      if (here == *first && (d.ranks.empty() || d.ranks.back() != int(r))) d.ranks.push_back(int(r));
    }
  }
  return true;
}
/// Of what no mesh changes.
inline void compare_totals(json const& run, json const& again, json const& names, comparison& c, deviation& d) {
  for (auto const& [key, value] : again.items()) {
    if (key == "step" || key == "mesh" || key == "run" || key == "names") continue;
    bool const lists = value.is_array();
    auto const& then = run.at(key);
    for (std::size_t i = 0; i < (lists ? value.size() : 1); ++i) {
      json const &expected = lists ? value[i] : value, &got = lists ? then.at(i) : then;
      ++c.hashes;
      if (expected == got || !d.event.empty()) continue;
      d.event = key;
      if (lists) names.at(i).get_to(d.tensor);
      expected.get_to(d.expected), got.get_to(d.got);
    }
  }
}
}  // namespace detail

/// Compares the receipts of a run, folder `run`, with those of steps [from, to] done again, on any mesh; where the mesh is
/// the same, what each rank did too. Those done again begin with the state behind step from - 1.
/// @error file_error: a file or a step is missing, or the two are not the same run
inline comparison compare(io::path const& run, io::path const& again, index_t from, index_t to) {
  comparison c;
  std::vector<std::pair<io::path, std::map<index_t, json>>> files;
  auto const line = [&](io::path const& file, index_t step) -> json const& {
    auto at = std::find_if(files.begin(), files.end(), [&](auto const& f) { return f.first == file; });
    if (at == files.end()) at = files.insert(at, {file, detail::read_lines(file, from - 1, to)});
    auto const found = at->second.find(step);
    if (found == at->second.end())
      throw file_error(file.string(), "has no receipt of step " + std::to_string(step) +
                                          ". Fix: steps that were done with receipts, and a whole file.");
    return found->second;
  };
  try {
    index_t const begin = recorded_steps(again).first;
    json const names = detail::read_lines(again / steps_file, begin, begin).at(begin).at("names");
    for (index_t step = from - 1; step <= to && !c.first; ++step, ++c.steps) {
      json const a = line(run / steps_file, step), b = line(again / steps_file, step);
      for (auto const& [key, value] : b.at("run").items())
        if (auto const theirs = a.at("run").value(key, json()); theirs != value)
          throw file_error((run / steps_file).string(), key + " is " + theirs.dump() + " in the run but " +
                                                            value.dump() + " here. Fix: give the run's arguments.");
      deviation d{step};
      if (step >= from && a.at("mesh") == b.at("mesh")) {
        std::vector<std::pair<json, json>> ranks;
        for (int r = 0; std::filesystem::exists(again / rank_file(r)); ++r)
          ranks.emplace_back(line(run / rank_file(r), step), line(again / rank_file(r), step));
        c.ranks = detail::compare_ranks(ranks, c, d);
        if (!c.ranks) d = {step};
      }
      if (d.event.empty()) detail::compare_totals(a, b, names, c, d);
      if (d.event.empty()) continue;
      detail::complete(d, b.at("run").at("config").at("layers").get<index_t>());
      c.first = d;
    }
  } catch (nlohmann::json::exception const&) {
    throw file_error(run.string(), "a receipt lacks a field. Fix: copy the files again from where they were written.");
  }
  return c;
}

}  // namespace tenon::receipt

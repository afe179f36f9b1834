// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Trains a GPT-2 or Llama shaped model on the bytes of any text: the program behind the quickstart.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <tenon/exec/host/peak.hpp>
#include <tenon/profile/chrome_trace.hpp>
#include <tenon/profile/table.hpp>
#include <tenon/train.hpp>

#include <sys/resource.h>

namespace {

namespace fs = std::filesystem;
using tenon::index_t;

/// The shapes that --model knows. The vocabulary is that of bytes.
using shape = std::variant<tenon::gpt2_config, tenon::llama_config>;
std::map<std::string, shape> const& models() {
  using gpt = tenon::gpt2_config;
  using llama = tenon::llama_config;
  static std::map<std::string, shape> const all{
      {"gpt-tiny", gpt{.layers = 2, .width = 64, .heads = 2, .context = 64, .vocabulary = 256}},
      {"gpt-small", gpt{.layers = 4, .width = 256, .heads = 4, .context = 128, .vocabulary = 256}},
      {"gpt-medium", gpt{.layers = 6, .width = 384, .heads = 6, .context = 256, .vocabulary = 256}},
      {"gpt2-124m", gpt{.layers = 12, .width = 768, .heads = 12, .context = 1024}},
      {"llama-tiny", llama{.layers = 2, .width = 64, .heads = 4, .kv_heads = 2, .context = 64, .vocabulary = 256}},
      {"llama-small", llama{.layers = 4, .width = 256, .heads = 4, .kv_heads = 2, .context = 128, .vocabulary = 256}},
  };
  return all;
}

struct arguments {
  std::string model = "gpt-small", precision = "fp32", out, trace, prompt = "// ";
  std::vector<std::string> text;
  index_t steps = 300, batch = 8, accumulate = 1, context = 0, checkpoint_every = 100, evaluate_every = 0, sample_tokens = 300;
  std::uint64_t seed = 1;
  int threads = 0;
  float learning_rate = 1e-3f, dropout = 0;
  bool resume = false, json = false, table = false;
};

/// Files as they are; of folders every text file below, in the order of their names.
std::vector<std::string> text_files(std::vector<std::string> const& given) {
  static std::vector<std::string> const kinds{".txt", ".md", ".hpp", ".cpp", ".h", ".c", ".cc", ".py", ".cmake", ".json"};
  std::vector<std::string> files;
  for (auto const& name : given) {
    if (!fs::is_directory(name)) {
      files.push_back(name);
      continue;
    }
    std::size_t const before = files.size();
    for (fs::recursive_directory_iterator it(name), end; it != end; ++it) {
      std::string const entry = it->path().filename().string();
      if (it->is_directory() && (entry[0] == '.' || entry == "build" || entry == "run")) it.disable_recursion_pending();
      else if (it->is_regular_file() && it->file_size() > 0 &&
               std::find(kinds.begin(), kinds.end(), it->path().extension().string()) != kinds.end())
        files.push_back(it->path().string());
    }
    std::sort(files.begin() + std::ptrdiff_t(before), files.end());
    if (files.size() == before) throw tenon::argument_error("--text " + name + ": the folder holds no text file. Fix: name the files.");
  }
  return files;
}

/// What can be printed of a model's bytes: text, with a dot for every byte that is none.
std::string printable(std::string s) {
  for (char& c : s)
    if ((static_cast<unsigned char>(c) < 32 && c != '\n' && c != '\t') || static_cast<unsigned char>(c) >= 127) c = '.';
  return s;
}

template <class Trainer>
void print_sample(Trainer& trainer, arguments const& a, char const* when) {
  if (a.sample_tokens <= 0 || a.json) return;
  auto const text = tenon::generate_text(trainer, a.prompt, {.tokens = a.sample_tokens, .seed = a.seed});
  std::printf("\n---- sample, %s ----\n%s\n--------\n\n", when, printable(text).c_str());
  std::fflush(stdout);
}

template <class Model, class Precision>
int run(typename Model::config_type config, arguments const& a) {
  using trainer = tenon::trainer<Model, Precision, tenon::memory::recompute_selective>;
  if (a.context) config.context = a.context;
  config.dropout = a.dropout;
  auto const files = text_files(a.text);
  tenon::byte_corpus const text({files.begin(), files.end()});
  trainer t{config,
            {.batch = a.batch,
             .accumulate = a.accumulate,
             .learning_rate = a.learning_rate,
             .schedule = {.warmup_steps = std::min<index_t>(a.steps / 10, 200), .total_steps = a.steps},
             .seed = a.seed,
             .threads = a.threads}};
  double const peak = tenon::exec::measure_fma_peak(t.context().pool());
  if (!a.json)
    std::printf("%s: %.2f million parameters, %s, %d threads at %.0f GFLOP/s, %s\n%zu bytes of text in %zu files\n",
                a.model.c_str(), double(t.parameter_count()) / 1e6, Precision::name, t.context().pool().size(), peak / 1e9,
                tenon::simd::instruction_set, std::size_t(text.size()), files.size());
  tenon::profile::recorder recorder;
  if (!a.trace.empty() || a.table) t.context().profiler = &recorder;
  if (!a.resume) print_sample(t, a, "before training");

  tenon::progress_line progress(stdout, a.steps, peak);
  auto const result = tenon::fit(t, text,
                                 {.steps = a.steps,
                                  .out = a.out,
                                  .resume = a.resume,
                                  .checkpoint_every = a.checkpoint_every,
                                  .evaluate_every = a.evaluate_every,
                                  .on_step = [&](tenon::fit_event const& e) {
                                    if (!a.json) progress.update(e);
                                  }});
  if (!a.json) progress.finish();
  t.context().profiler = nullptr;
  if (!a.trace.empty()) tenon::profile::write_chrome_trace(a.trace, recorder);
  if (a.table) std::fputs(tenon::profile::table(recorder, {peak, tenon::exec::measure_read_bandwidth(t.context().pool())}).c_str(), stdout);
  print_sample(t, a, "after training");

  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  nlohmann::ordered_json const summary{{"model", a.model},
                                       {"precision", Precision::name},
                                       {"steps", result.steps},
                                       {"loss", result.loss},
                                       {"validation_loss", result.validation_loss},
                                       {"tokens_per_second", result.tokens_per_second},
                                       {"flops_utilization", result.flops_per_second / peak},
                                       {"peak_rss_bytes", std::int64_t(usage.ru_maxrss) * 1024},
                                       {"threads", t.context().pool().size()},
                                       {"instruction_set", tenon::simd::instruction_set},
                                       {"parameters_sha256", tenon::parameters_sha256(t)}};
  if (a.json) std::printf("%s\n", summary.dump().c_str());
  else {
    std::printf("step %td: loss %.3f, validation %.3f, %.0f tokens/s, %.0f %% of the processor's peak\n", result.steps,
                result.loss, result.validation_loss, result.tokens_per_second, 100 * result.flops_per_second / peak);
    if (!a.out.empty())
      std::printf("written to %s: checkpoint (step-*), metrics.jsonl, loss.svg\n\nTry next:\n"
                  "  --resume --steps %td --out %s   train on from here\n"
                  "  --text FILE...                   your own text\n"
                  "  --model llama-small              another architecture; --help lists them\n",
                  a.out.c_str(), 2 * a.steps, a.out.c_str());
  }
  return 0;
}

template <class Precision>
int run(arguments const& a) {
  auto const& config = models().at(a.model);
  if (auto const* gpt = std::get_if<tenon::gpt2_config>(&config)) return run<tenon::models::gpt2<>, Precision>(*gpt, a);
  return run<tenon::models::llama<>, Precision>(std::get<tenon::llama_config>(config), a);
}

}  // namespace

int main(int argc, char** argv) {
  arguments a;
  CLI::App app{"Trains a GPT on the bytes of a text, on one machine. Results do not depend on --threads."};
  std::vector<std::string> names;
  for (auto const& m : models()) names.push_back(m.first);
  app.add_option("--model", a.model, "the model's shape")->check(CLI::IsMember(names))->capture_default_str();
  app.add_option("--precision", a.precision, "element types")->check(CLI::IsMember({"fp32", "bf16_mixed"}))->capture_default_str();
  app.add_option("--text", a.text, "files to learn, or folders of text files (default: this project's sources and documents)");
  app.add_option("--steps", a.steps, "train until this step")->check(CLI::Range(0l, 100000000l))->capture_default_str();
  app.add_option("--batch", a.batch, "sequences per step")->check(CLI::Range(1l, 1000000l))->capture_default_str();
  app.add_option("--accumulate", a.accumulate, "micro-batches per step: less memory, the same bits")->check(CLI::Range(1l, 1000000l))->capture_default_str();
  app.add_option("--context", a.context, "tokens per sequence (default: the model's)")->check(CLI::Range(1l, 1000000l));
  app.add_option("--learning-rate", a.learning_rate, "the peak; warm-up and cosine decay around it")->capture_default_str();
  app.add_option("--dropout", a.dropout, "share of activations dropped")->check(CLI::Range(0.0, 0.9))->capture_default_str();
  app.add_option("--seed", a.seed, "of weights, data order, dropout and samples")->capture_default_str();
  app.add_option("--threads", a.threads, "0: one per processor")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--out", a.out, "folder for checkpoints, metrics.jsonl and loss.svg (default: nothing is written)");
  app.add_flag("--resume", a.resume, "continue from the newest checkpoint in --out");
  app.add_option("--checkpoint-every", a.checkpoint_every, "steps between checkpoints; 0: at the end only")->check(CLI::Range(0l, 100000000l))->capture_default_str();
  app.add_option("--evaluate-every", a.evaluate_every, "steps between evaluations; 0: at the end only")->check(CLI::Range(0l, 100000000l))->capture_default_str();
  app.add_option("--prompt", a.prompt, "what samples begin with")->capture_default_str();
  app.add_option("--sample-tokens", a.sample_tokens, "length of the samples; 0: none")->check(CLI::Range(0l, 100000l))->capture_default_str();
  app.add_option("--trace", a.trace, "write a trace that Perfetto and chrome://tracing open");
  app.add_flag("--table", a.table, "print time, GFLOP/s and GB/s of each operation");
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  try {
    app.parse(argc, argv);
    if (a.resume && a.out.empty()) throw tenon::argument_error("--resume needs to know where. Fix: add --out FOLDER.");
    if (a.prompt.empty()) throw tenon::argument_error("--prompt is empty. Fix: at least one character.");
    if (a.text.empty()) a.text = {TENON_SOURCE_DIR};
    return a.precision == "fp32" ? run<tenon::precision::fp32>(a) : run<tenon::precision::bf16_mixed>(a);
  } catch (CLI::CallForHelp const& e) {
    return app.exit(e);
  } catch (CLI::ParseError const& e) {
    std::fprintf(stderr, "train_gpt: %s. Fix: see --help.\n", e.what());
    return 2;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "train_gpt: %s\n", e.what());
    return 1;
  }
}

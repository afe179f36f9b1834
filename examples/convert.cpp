// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// links: any_model CLI11::CLI11
// Converts models: a Hugging Face folder or a checkpoint of train_gpt to GGUF, quantized on the way, if asked for with
// what a text says about its inputs; GGUF to another format, or back to safetensors. One tensor is in memory at a time.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <tenon/io/gguf_writer.hpp>
#include <tenon/io/hf_folder.hpp>
#include <tenon/models/names.hpp>
#include <tenon/ops/host/quantize.hpp>

#include "convert/calibrate.hpp"
#include "convert/metadata.hpp"
#include "convert/tokenizer.hpp"

namespace {

using namespace convert;
using models::weight_change;
using tenon::weight_format;
using tenon::weight_view;

struct arguments {
  io::path input, output, calibrate;
  std::string to, type;
  int threads = 0;
  bool tokenizer = true, quiet = false, json = false;
};

std::string lower(std::string s) {
  std::transform(s.begin(), s.end(), s.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return s;
}

weight_format format_named(std::string const& name) {
  auto const is_it = [&](tenon::weight_layout const& l) { return lower(l.name) == lower(name); };
  return weight_format(std::find_if(tenon::weight_layouts.begin(), tenon::weight_layouts.end(), is_it) -
                       tenon::weight_layouts.begin());
}

std::optional<arguments> read_command_line(int argc, char** argv) {
  arguments a;
  CLI::App app{
      "Converts a model: a Hugging Face folder (config.json, *.safetensors) or a checkpoint of train_gpt to "
      "GGUF, a GGUF file to another type, or to a folder with safetensors."};
  std::vector<std::string> types;
  for (auto const& l : tenon::weight_layouts) types.push_back(lower(l.name));
  app.add_option("input", a.input, "a folder, or a .gguf file (of a model in parts, the first)")->required();
  app.add_option("output", a.output, "the .gguf file or the folder to write")->required();
  app.add_option("--to", a.to, "gguf or safetensors (default: gguf when the output ends so)")
      ->check(CLI::IsMember({"gguf", "safetensors"}));
  app.add_option(
         "--type", a.type,
         "of matrices; in GGUF, norms stay f32, the output matrix has at least q6_k, and rows that a type cannot "
         "hold take the next larger type (default: f16; to safetensors f32)")
      ->check(CLI::IsMember(types, CLI::ignore_case));
  app.add_option("--calibrate", a.calibrate,
                 "a text for the model to read: types in blocks are then rounded so that what layers say to such texts "
                 "changes least (GPTQ)");
  app.add_option("--threads", a.threads, "0: all processors; they do not change the result")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("!--no-tokenizer", a.tokenizer, "leave the tokenizer out");
  app.add_flag("--quiet", a.quiet, "no line per tensor");
  app.add_flag("--json", a.json, "print one JSON object at the end, and nothing else");
  try {
    app.parse(argc, argv);
  } catch (CLI::CallForHelp const& e) {
    app.exit(e);
    return {};
  } catch (CLI::ParseError const& e) {
    throw tenon::argument_error(std::string(e.what()) + ". Fix: see --help.");
  }
  if (a.to.empty()) a.to = lower(a.output.extension().string()) == ".gguf" ? "gguf" : "safetensors";
  if (a.type.empty()) a.type = a.to == "gguf" ? "f16" : "f32";
  if (a.to == "safetensors" && a.type != "f32" && lower(a.type) != "f16" && lower(a.type) != "bf16")
    throw tenon::argument_error("--type " + a.type + " is none of safetensors. Fix: f32, f16 or bf16.");
  if (!a.calibrate.empty() && (a.to != "gguf" || !tenon::is_blocks(format_named(a.type))))
    throw tenon::argument_error("--calibrate is for matrices in blocks, not " + a.type + ". Fix: e.g. --type q4_0.");
  if (a.threads == 0) a.threads = int(std::max(1u, std::thread::hardware_concurrency()));
  return a;
}

/// A tensor to write, and what it is made of.
struct conversion {
  std::string name;
  std::vector<index_t> shape;
  weight_view from;
  std::vector<weight_view> experts{};  ///< one below the other, where they are in tensors of their own
  weight_change change = weight_change::none;
  index_t heads = 1;    ///< of rows that change places
  bool to_gguf = true;  ///< the direction of the change
  weight_format format{};
};

bool moves_pairs(weight_change change) {
  return change == weight_change::query_pairs || change == weight_change::key_pairs;
}
/// A vector is a column where rows change places.
index_t rows_of(conversion const& c) { return c.shape.size() == 1 ? c.from.cols : c.from.rows; }

/// Row r of the output is row `source_row(c, r)` of the input.
index_t source_row(conversion const& c, index_t rows, index_t r) {
  index_t const width = rows / c.heads, half = width / 2, head = r / width, i = r % width;
  return head * width + (c.to_gguf ? i % 2 * half + i / 2 : i % half * 2 + i / half);
}

/// `values` [rows, cols], changed as the other kind of file wants them.
std::vector<float> changed(conversion const& c, std::vector<float> const& values) {
  index_t const rows = rows_of(c), cols = index_t(values.size()) / rows;
  std::vector<float> out(values.size());
  for (index_t r = 0; r < rows; ++r)
    for (index_t k = 0; k < cols; ++k) {
      index_t from = r * cols + k, to = from;
      if (c.change == weight_change::transposed) to = k * rows + r;
      else from = source_row(c, rows, r) * cols + k;
      out[std::size_t(to)] = values[std::size_t(from)];
    }
  return out;
}

/// @param feedback of the matrix's inputs; empty: there is none
void fill(tenon::exec::host_context& ctx, conversion const& c, tenon::matrix_view<double const> feedback,
          std::span<std::byte> out) {
  if (!c.experts.empty()) {
    conversion one = c;
    one.experts.clear();
    for (std::size_t e = 0, size = out.size() / c.experts.size(); e < c.experts.size(); ++e) {
      one.from = c.experts[e];
      fill(ctx, one, feedback, out.subspan(e * size, size));
    }
    return;
  }
  bool const moves = c.change == weight_change::transposed || moves_pairs(c.change);
  if (c.change != weight_change::one_added && !moves && c.format == c.from.format) {
    std::copy_n(c.from.data, out.size(), out.data());
    return;
  }
  // Rows that stay where they are go through a small buffer.
  index_t const step = moves ? c.from.rows : std::max<index_t>(1, (index_t(1) << 22) / c.from.cols);
  std::vector<float> values;
  for (index_t r = 0; r < c.from.rows; r += step) {
    index_t const n = std::min(step, c.from.rows - r);
    values.resize(std::size_t(n * c.from.cols));
    tenon::ops::dequantize(ctx,
                           tenon::ops::dequantize_args{{c.from.format, c.from.row(r), n, c.from.cols}, values.data()});
    if (c.change == weight_change::one_added)
      for (float& v : values) v += c.to_gguf ? 1.0f : -1.0f;
    if (moves) values = changed(c, values);
    index_t const cols = c.shape.back(), rows = index_t(values.size()) / cols;
    weight_view const to{c.format, out.data(), rows, cols};
    auto* const place = out.data() + r * to.row_bytes();
    if (feedback.empty() || !tenon::is_blocks(c.format))
      tenon::ops::quantize(ctx, tenon::ops::quantize_args{values.data(), c.format, place, rows, cols});
    else
      tenon::ops::quantize_for_inputs(
          ctx, tenon::ops::quantize_for_inputs_args{values.data(), c.format, place, rows, cols, feedback});
  }
}

/// The format of a tensor in a GGUF file when `wanted` is asked for.
weight_format format_in_gguf(std::string const& name, std::vector<index_t> const& shape, weight_format wanted,
                             bool is_tied) {
  auto const ends = [&](std::string_view end) {
    return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
  };
  if (shape.size() == 1 || !ends(".weight") || ends("norm.weight") || name == "position_embd.weight" ||
      name == "token_types.weight" || ends("ffn_gate_inp.weight"))
    return weight_format::f32;
  bool const is_head = name == (is_tied ? "token_embd.weight" : "output.weight");
  if (is_head && wanted > weight_format::q8_0) wanted = weight_format::q6_k;
  return tenon::ops::format_that_fits(wanted, shape.back());
}

/// What `general.file_type` says of a file with most matrices in this format.
std::uint32_t file_type_of(weight_format f) {
  constexpr std::uint32_t numbers[] = {0, 1, 32, 7, 2, 3, 8, 9, 10, 11, 14, 16, 18, 25, 38};
  return numbers[std::size_t(f)];
}

/// What is read, of either kind.
struct model_input {
  std::optional<io::hf_folder> folder;
  std::optional<io::gguf_file> file;
  bool is_checkpoint = false;
  json config;
  models::architecture_name const* architecture = nullptr;

  explicit model_input(io::path const& from, bool names_matter) {
    if (std::filesystem::is_directory(from)) {
      folder.emplace(from);
      is_checkpoint = !std::filesystem::exists(from / "config.json") && std::filesystem::exists(from / "state.json");
      std::string const name = (from / (is_checkpoint ? "state.json" : "config.json")).string();
      config = is_checkpoint ? config_of_checkpoint(folder->description("state.json"), name) : folder->description();
      architecture = &architecture_of(config, name);
      complete(config, *architecture, name);
    } else {
      file.emplace(from);
      if (!names_matter) return;
      auto const name = file->get<std::string_view>("general.architecture");
      architecture = models::find_architecture_by_gguf(name);
      if (!architecture)
        throw tenon::file_error(file->name(), "is of the architecture '" + std::string(name) +
                                                  "', whose names in safetensors are not known. Fix: convert to gguf.");
      if (file->tensors().count("blk.0.ffn_gate_inp.weight"))
        throw tenon::file_error(
            file->name(), "is a mixture of experts, which goes to gguf only. Fix: the folder that it was made of.");
      config = config_of_gguf(*file, *architecture);
    }
  }
  std::string const& name() const { return folder ? folder->name() : file->name(); }
  std::vector<std::string_view> names() const { return folder ? folder->names() : file->names(); }
  std::optional<weight_view> find(std::string_view tensor) const {
    return folder ? folder->find(tensor) : file->find(tensor);
  }
  std::vector<index_t> const& shape(std::string_view tensor) const {
    return folder ? folder->tensors().at(tensor)->shape : file->tensors().at(tensor).shape;
  }
};

index_t heads_of(model_input const& in, weight_change change) {
  if (!moves_pairs(change)) return 1;
  char const* const name = change == weight_change::query_pairs ? "num_attention_heads" : "num_key_value_heads";
  auto const value = in.config.find(name);
  if (value == in.config.end() || !value->is_number_integer() || value->get<index_t>() < 1)
    throw tenon::file_error(in.name(), std::string("has no number ") + name + ". Fix: use the whole model.");
  return value->get<index_t>();
}

/// GGUF has the experts of a layer in one tensor.
void add_expert(model_input const& in, std::vector<conversion>& all, conversion c, std::size_t expert) {
  auto whole = std::find_if(all.begin(), all.end(), [&](auto const& other) { return other.name == c.name; });
  if (whole == all.end()) {
    c.shape.insert(c.shape.begin(), 0);
    whole = all.insert(all.end(), c);
  }
  if (c.from.cols != whole->from.cols || c.from.rows != whole->from.rows || c.from.format != whole->from.format)
    throw tenon::file_error(in.name(), "has experts that differ in '" + c.name + "'. Fix: use the whole model.");
  if (whole->experts.size() <= expert) whole->experts.resize(expert + 1);
  whole->experts[expert] = c.from;
  whole->shape[0] = index_t(whole->experts.size());
}

std::vector<conversion> plan(model_input const& in, arguments const& a) {
  weight_format const wanted = format_named(a.type);
  bool const to_gguf = a.to == "gguf", renames = !(in.file && to_gguf);
  std::vector<conversion> all;
  for (std::string_view const tensor : in.names()) {
    conversion c{std::string(tensor), in.shape(tensor), {}, {}, {}, 1, to_gguf, {}};
    int expert = -1;
    if (renames) {
      auto const renamed = to_gguf ? models::gguf_weight_name(*in.architecture, tensor)
                                   : models::hf_weight_name(*in.architecture, tensor);
      if (!renamed)
        throw tenon::file_error(in.name(), "tensor '" + c.name + "' is none of the weights of " +
                                               std::string(in.architecture->model_type) +
                                               " that can be converted. Fix: use the model's own converter.");
      c.name = renamed->name;
      c.change = renamed->change;
      expert = renamed->expert;
    }
    if (c.change == weight_change::left_out) continue;
    if (c.change == weight_change::transposed && (in.is_checkpoint || c.shape.size() == 1))
      c.change = weight_change::none;
    c.from = *in.find(tensor);
    c.heads = heads_of(in, c.change);
    bool const fits = c.change == weight_change::transposed
                          ? c.shape.size() == 2
                          : rows_of(c) % (moves_pairs(c.change) ? 2 * c.heads : 1) == 0;
    if (c.from.empty() || c.shape.empty() || !fits)
      throw tenon::file_error(in.name(), "tensor '" + std::string(tensor) + "' has the shape " +
                                             io::shape_text(c.shape) +
                                             ", which does not fit the model. Fix: use the folder of one whole model.");
    if (c.change == weight_change::transposed) std::swap(c.shape[0], c.shape[1]);
    if (expert >= 0) add_expert(in, all, std::move(c), std::size_t(expert));
    else all.push_back(std::move(c));
  }
  for (auto const& c : all)
    for (auto const& e : c.experts)
      if (e.empty())
        throw tenon::file_error(in.name(), "has not all experts of '" + c.name + "'. Fix: use the whole model.");
  bool const is_tied =
      std::none_of(all.begin(), all.end(), [](conversion const& c) { return c.name == "output.weight"; });
  for (auto& c : all) c.format = to_gguf ? format_in_gguf(c.name, c.shape, wanted, is_tied) : wanted;
  return all;
}

io::gguf_metadata metadata_for(model_input const& in, arguments const& a, std::vector<conversion> const& all) {
  io::gguf_metadata m;
  if (in.file) {
    for (auto const& [key, value] : in.file->metadata())
      if (key.substr(0, 6) != "split.") m.set(key, value);
  } else {
    set_shape(m, in.config, *in.architecture, in.name());
    if (in.architecture->family == models::bert_names) set_pooling(m, a.input / "1_Pooling" / "config.json");
    io::path const folder = std::filesystem::absolute(a.input).lexically_normal();
    m.set("general.name", (folder.has_filename() ? folder : folder.parent_path()).filename().string());
    auto const embedding =
        std::find_if(all.begin(), all.end(), [](auto const& c) { return c.name == "token_embd.weight"; });
    if (embedding == all.end())
      throw tenon::file_error(in.name(), "has no embedding of tokens. Fix: use the whole model.");
    auto const tokens = std::size_t(embedding->shape[0]);
    io::path const tokenizer = a.input / "tokenizer.json";
    if (a.tokenizer && std::filesystem::exists(tokenizer))
      set_tokenizer(m, io::read_json_object(tokenizer), in.config, tokens, tokenizer.string());
    else if (a.tokenizer && in.is_checkpoint && tokens >= 256) set_byte_tokens(m, tokens);
    else if (a.tokenizer)
      std::fprintf(stderr, "convert: %s is missing, so the file has no tokenizer\n", tokenizer.c_str());
  }
  m.set("general.file_type", file_type_of(format_named(a.type)));
  m.set("general.quantization_version", std::uint32_t(2));
  return m;
}

void run(arguments const& a) {
  auto const begin = std::chrono::steady_clock::now();
  model_input const in(a.input, a.to == "safetensors");
  if (in.folder && a.to == "safetensors")
    throw tenon::argument_error("the input is a folder of safetensors already. Fix: an output that ends in .gguf.");
  std::vector<conversion> const all = plan(in, a);
  tenon::exec::host_context ctx(a.threads);
  std::optional<calibration> inputs;
  if (!a.calibrate.empty()) inputs.emplace(ctx, a.input, a.calibrate);
  std::vector<io::tensor_to_write> tensors;
  std::map<std::string, int> counts;
  std::size_t bytes = 0, done = 0;
  for (auto const& c : all) {
    char const* const type = tenon::layout_of(c.format).name;
    ++counts[type];
    tensors.push_back({c.name, type, c.shape, nullptr, [&, type](std::span<std::byte> out) {
                         ++done;
                         if (!a.quiet && !a.json)
                           std::printf("[%4zu/%zu] %-40s %-16s %s -> %s\n", done, all.size(), c.name.c_str(),
                                       io::shape_text(c.shape).c_str(), tenon::layout_of(c.from.format).name, type);
                         fill(ctx, c, inputs ? inputs->feedback(c.name) : tenon::matrix_view<double const>{}, out);
                         bytes += out.size();
                       }});
  }
  if (a.to == "gguf") {
    io::write_gguf(a.output, metadata_for(in, a, all), tensors);
  } else {
    io::atomic_folder folder(a.output);
    json config = in.config;
    config["torch_dtype"] = a.type == "f32" ? "float32" : lower(a.type) == "f16" ? "float16" : "bfloat16";
    io::write_file_atomically(folder.path() / "config.json", config.dump(2) + "\n");
    io::write_safetensors(folder.path() / "model.safetensors", tensors, {{"format", "pt"}});
    folder.commit();
    std::fprintf(stderr, "convert: the tokenizer stays in %s\n", a.input.c_str());
  }
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (a.json)
    std::printf("%s\n", json{{"output", a.output.string()},
                             {"tensors", all.size()},
                             {"bytes", bytes},
                             {"types", counts},
                             {"seconds", seconds}}
                            .dump()
                            .c_str());
  else std::printf("%s: %zu tensors, %.1f MB, %.1f s\n", a.output.c_str(), all.size(), double(bytes) * 1e-6, seconds);
}

}  // namespace

int main(int argc, char** argv) try {
  if (auto const a = read_command_line(argc, argv)) run(*a);
  return 0;
} catch (nlohmann::json::exception const& e) {
  std::fprintf(stderr, "convert: a JSON file of the model lacks something (%s). Fix: download the model again.\n",
               e.what());
  return 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "convert: %s\n", e.what());
  return 1;
}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Reading a Hugging Face folder: config.json, and weights in model.safetensors or in shards with an index.
/// @test tests/io/hf_folder_test.cpp
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/io/mapped_file.hpp>
#include <tenon/io/safetensors.hpp>
#include <tenon/io/weight_source.hpp>

namespace tenon::io {

/// A file that holds one JSON object.
/// @error file_error when it is missing or something else
inline nlohmann::json read_json_object(path const& file) {
  mapped_file const content(file);
  auto const* const text = reinterpret_cast<char const*>(content.bytes().data());
  auto json = nlohmann::json::parse(text, text + content.size(), nullptr, false);
  if (!json.is_object()) throw file_error(file.string(), "is not a JSON object. Fix: download or save it again.");
  return json;
}

/// An open folder of weights; of a folder with an index, the shards that the index names.
/// @error file_error that names the file and the tensor
class hf_folder {
 public:
  explicit hf_folder(path const& folder) : shown_name(folder.string()) {
    path const index = folder / "model.safetensors.index.json";
    std::error_code none;
    if (std::filesystem::exists(index, none)) open_shards(folder, index);
    else open_single(folder / "model.safetensors");
  }

  std::string const& name() const { return shown_name; }
  /// The content of config.json or of another description beside the weights.
  nlohmann::json description(std::string const& file = "config.json") const {
    return read_json_object(path(shown_name) / file);
  }
  std::map<std::string_view, stored_tensor const*> const& tensors() const { return by_name; }

  std::vector<std::string_view> names() const {
    std::vector<std::string_view> out;
    for (auto const& t : by_name) out.push_back(t.first);
    return out;
  }
  /// @error file_error when the tensor is there as something else than F32, F16 or BF16
  std::optional<weight_view> find(std::string_view tensor) const {
    auto const found = by_name.find(tensor);
    if (found == by_name.end()) return {};
    stored_tensor const& t = *found->second;
    for (auto const f : {weight_format::f32, weight_format::f16, weight_format::bf16})
      if (t.dtype == layout_of(f).name) {
        index_t const cols = t.shape.empty() ? 1 : t.shape.back();
        index_t const values = index_t(t.bytes.size()) / layout_of(f).bytes;
        return weight_view{f, t.bytes.data(), cols ? values / cols : 0, cols};
      }
    throw detail::not_a_weight(shown_name, tensor, t.dtype);
  }

 private:
  safetensors_file const& open(path const& file) {
    return *files.emplace_back(std::make_unique<safetensors_file>(file));
  }
  void open_single(path const& file) {
    for (auto const& [tensor, content] : open(file).tensors()) by_name.emplace(tensor, &content);
  }
  void open_shards(path const& folder, path const& index) {
    nlohmann::json const description = read_json_object(index);
    auto const refuse = [&](std::string const& what) {
      throw file_error(index.string(), what + ". Fix: download the folder again.");
    };
    auto const map = description.find("weight_map");
    if (map == description.end() || !map->is_object()) refuse("has no object 'weight_map'");
    std::map<std::string, safetensors_file const*, std::less<>> shards;
    for (auto const& [tensor, where] : map->items()) {
      if (!where.is_string()) refuse("does not say in which file tensor '" + detail::shown(tensor) + "' is");
      auto const& file = where.get_ref<std::string const&>();
      if (file.empty() || path(file).filename() != file)
        refuse("tensor '" + detail::shown(tensor) + "' is said to be in '" + detail::shown(file) +
               "', which is no name of a file in the folder");
      auto& shard = shards[file];
      if (!shard) shard = &open(folder / file);
      auto const found = shard->tensors().find(tensor);
      if (found == shard->tensors().end())
        refuse("tensor '" + detail::shown(tensor) + "' is said to be in '" + detail::shown(file) +
               "', but that file does not have it");
      by_name.emplace(found->first, &found->second);
    }
  }

  std::string shown_name;
  std::vector<std::unique_ptr<safetensors_file>> files;
  std::map<std::string_view, stored_tensor const*> by_name;
};
static_assert(WeightSource<hf_folder>);

}  // namespace tenon::io

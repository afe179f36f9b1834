// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <io/scratch_folder.hpp>
#include <tenon/io/hf_folder.hpp>

namespace io = tenon::io;
using tenon::weight_format;

namespace {

float const values[6] = {1, 2, 3, 4, 5, 6};

bool has(std::string const& message, std::string const& part) {
  CAPTURE(message);
  CHECK(is_one_sentence(message));
  return message.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("hf_folder: one file") {
  scratch_folder const folder;
  tenon::bf16 const half[4] = {tenon::bf16(1.0f), tenon::bf16(2.0f), tenon::bf16(3.0f), tenon::bf16(4.0f)};
  tenon::fp16 const small[1] = {tenon::fp16(0.5f)};
  std::int64_t const ids[2] = {0, 1};
  io::write_safetensors(
      folder / "model.safetensors",
      {io::stored_as("w", {3, 2}, values), io::stored_as("cube", {2, 1, 2}, half), io::stored_as("scalar", {}, small),
       io::stored_as("ids", {2}, ids), io::stored_as("none", {2, 0}, values)});
  folder.write("config.json", R"({"hidden_size": 2})");
  io::hf_folder const f(folder.path);
  CHECK(f.names() == std::vector<std::string_view>{"cube", "ids", "none", "scalar", "w"});
  CHECK(f.description().at("hidden_size") == 2);
  auto const w = io::weights_at(f, "w", 3, 2);
  CHECK(w.format == weight_format::f32);
  CHECK(reinterpret_cast<float const*>(w.row(1))[1] == 4.0f);
  CHECK(static_cast<void const*>(w.data) == f.tensors().at("w")->bytes.data());  // no copy
  CHECK(io::weights_at(f, "cube", 2, 2).format == weight_format::bf16);
  CHECK(io::weights_at(f, "scalar", 1, 1).format == weight_format::f16);
  CHECK(f.find("none")->empty());
  CHECK_FALSE(f.find("other").has_value());
  CHECK(has(message_of([&] { f.find("ids"); }), "tensor 'ids' is stored as I64, which tenon does not compute with"));
  CHECK(has(message_of([&] { f.description("state.json"); }), "state.json: cannot read: there is no such file"));
  folder.write("config.json", "[1]");
  CHECK(has(message_of([&] { f.description(); }), "is not a JSON object"));
  folder.write("config.json", "");
  CHECK(has(message_of([&] { f.description(); }), "is not a JSON object"));
}

TEST_CASE("hf_folder: shards with an index") {
  scratch_folder const folder;
  io::write_safetensors(folder / "1.safetensors",
                        {io::stored_as("a", {2}, values), io::stored_as("unlisted", {2}, values)});
  io::write_safetensors(folder / "2.safetensors", {io::stored_as("b", {3}, values)});
  auto const verdict = [&](std::string const& index) {
    folder.write("model.safetensors.index.json", index);
    return message_of([&] { io::hf_folder f(folder.path); });
  };
  CHECK(verdict(R"({"metadata":{},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})").empty());
  io::hf_folder const f(folder.path);
  CHECK(f.names() == std::vector<std::string_view>{"a", "b"});
  CHECK(f.find("b")->cols == 3);
  CHECK(has(verdict("{"), "is not a JSON object"));
  CHECK(has(verdict("{}"), "has no object 'weight_map'"));
  CHECK(has(verdict(R"({"weight_map":{"a":1}})"), "does not say in which file tensor 'a' is"));
  for (char const* outside : {"../x/1.safetensors", "/etc/passwd", "", "a/"})
    CHECK(has(verdict(R"({"weight_map":{"a":")" + std::string(outside) + "\"}}"), "no name of a file in the folder"));
  CHECK(has(verdict(R"({"weight_map":{"b":"1.safetensors"}})"), "but that file does not have it"));
  CHECK(has(verdict(R"({"weight_map":{"b":"3.safetensors"}})"), "3.safetensors: cannot read"));
}

TEST_CASE("hf_folder: nothing there") {
  scratch_folder const folder;
  CHECK(
      has(message_of([&] { io::hf_folder f(folder.path); }), "model.safetensors: cannot read: there is no such file"));
}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include <io/gguf_samples.hpp>
#include <io/scratch_folder.hpp>
#include <tenon/io/gguf_writer.hpp>

namespace io = tenon::io;

TEST_CASE("gguf: what is written is read") {
  scratch_folder const folder;
  io::gguf_metadata metadata;
  metadata.set("general.architecture", "gpt2");
  metadata.set("general.alignment", 64u);  // how the file is aligned is the writer's matter
  metadata.set("n", std::uint32_t(7));
  metadata.set("yes", true);
  metadata.set("eps", 1e-5f);
  metadata.set("texts", std::vector<std::string>{"a", "", "c"});
  metadata.set("numbers", std::array<int, 3>{1, -2, 3});
  std::vector<float> const a{1, 2, 3, 4, 5, 6};
  int fills = 0;
  auto const fill = [&](std::span<std::byte> to) {
    ++fills;
    std::fill(to.begin(), to.end(), std::byte{7});
  };
  std::vector<io::tensor_to_write> const tensors{{"b", "Q8_0", {2, 64}, nullptr, fill},
                                                 io::stored_as("a", {3, 2}, a.data())};
  auto const file = folder / "m.gguf";
  io::write_gguf(file, metadata, tensors);
  CHECK(fills == 1);
  io::gguf_file const f(file);
  CHECK(f.metadata().size() == 6);
  CHECK(f.get<std::string_view>("general.architecture") == "gpt2");
  CHECK(f.get<int>("n") == 7);
  CHECK(f.get<bool>("yes"));
  CHECK(f.get<float>("eps") == 1e-5f);
  auto const texts = f.get<io::gguf_strings>("texts");
  CHECK(std::vector<std::string>(texts.begin(), texts.end()) == std::vector<std::string>{"a", "", "c"});
  CHECK(f.get<io::packed_values<int>>("numbers").to_vector() == std::vector<int>{1, -2, 3});
  auto const w = io::weights_at(f, "a", 3, 2);
  CHECK(reinterpret_cast<float const*>(w.row(2))[1] == 6.0f);
  CHECK(io::weights_at(f, "b", 2, 64).data[135] == std::byte{7});
  CHECK(f.tensors().at("a").bytes.data() - f.tensors().at("b").bytes.data() == 160);  // 136 rounded up to 32

  // A copy of its metadata and tensors is the same file.
  io::gguf_metadata again;
  for (auto const& [key, value] : f.metadata()) again.set(key, value);
  std::vector<io::tensor_to_write> copies;
  for (char const* name : {"b", "a"}) {
    auto const& t = f.tensors().at(name);
    copies.push_back({name, t.type->name, t.shape, t.bytes.data()});
  }
  io::write_gguf(folder / "copy.gguf", again, copies);
  CHECK(folder.read("copy.gguf") == folder.read("m.gguf"));
}

TEST_CASE("gguf: every kind of value survives a copy") {
  std::string const content = sample_gguf();
  io::gguf_file const f(std::as_bytes(std::span(content)), "x.gguf");
  io::gguf_metadata metadata;
  for (auto const& [key, value] : f.metadata()) metadata.set(key, value);
  scratch_folder const folder;
  io::write_gguf(folder / "m.gguf", metadata, {});
  io::gguf_file const copy(folder / "m.gguf");
  REQUIRE(copy.metadata().size() == f.metadata().size());
  for (auto const& [key, value] : f.metadata()) {
    auto const& other = copy.metadata().at(key).encoded;
    CHECK(std::equal(value.encoded.begin(), value.encoded.end(), other.begin(), other.end()));
  }
}

TEST_CASE("gguf: what cannot be written is refused, and nothing is left behind") {
  scratch_folder const folder;
  float const data[64] = {};
  auto const verdict = [&](std::vector<io::tensor_to_write> const& tensors, io::gguf_metadata const& m = {}) {
    auto const message = message_of([&] { io::write_gguf(folder / "m.gguf", m, tensors); });
    CHECK(is_one_sentence(message));
    CHECK(folder.count() == 0);
    return message;
  };
  auto const has = [](std::string const& s, char const* part) { return s.find(part) != std::string::npos; };
  CHECK(has(verdict({io::stored_as("a", {2}, data), io::stored_as("a", {2}, data)}), "there twice"));
  CHECK(has(verdict({io::stored_as(std::string(65, 'a'), {2}, data)}), "longer than 64"));
  CHECK(has(verdict({{"a", "Q4_Z", {32}, data}}), "the type 'Q4_Z'"));
  CHECK(has(verdict({{"a", "Q4_K", {2, 128}, data}}), "cannot have the shape [2, 128]"));
  CHECK(has(verdict({{"a", "F32", {}, data}}), "cannot have the shape []"));
  CHECK(has(verdict({{"a", "F32", {1, 1, 1, 1, 1}, data}}), "1 to 4 dimensions"));
  CHECK(has(verdict({{"a", "F32", {0, 2}, data}}), "cannot have the shape"));
  CHECK(has(verdict({{"a", "F32", {tenon::index_t(1) << 40, tenon::index_t(1) << 40}, data}}), "cannot have"));
  io::gguf_metadata long_key;
  long_key.set(std::string(65536, 'k'), 1);
  CHECK(has(verdict({}, long_key), "65536 bytes"));
}

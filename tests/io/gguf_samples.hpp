// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

/// Builds the bytes of a GGUF file piece by piece, right or wrong.
struct gguf_bytes {
  std::string out;

  template <class T>
  gguf_bytes& number(T value) {
    out.append(reinterpret_cast<char const*>(&value), sizeof value);
    return *this;
  }
  gguf_bytes& u32(std::uint32_t v) { return number(v); }
  gguf_bytes& u64(std::uint64_t v) { return number(v); }
  gguf_bytes& text(std::string_view s) {
    u64(s.size());
    out += s;
    return *this;
  }
  gguf_bytes& head(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    out += "GGUF";
    return u32(version).u64(tensors).u64(keys);
  }
  gguf_bytes& key(std::string_view name, std::uint32_t type) { return text(name).u32(type); }
  gguf_bytes& tensor(std::string_view name, std::initializer_list<std::uint64_t> sizes, std::uint32_t type,
                     std::uint64_t offset) {
    text(name).u32(std::uint32_t(sizes.size()));
    for (auto const s : sizes) u64(s);
    return u32(type).u64(offset);
  }
  gguf_bytes& pad(std::size_t alignment = 32) {
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  gguf_bytes& data(std::size_t bytes) {
    out.append(bytes, '\1');
    return *this;
  }
};

/// A small file with a value of every kind, nested arrays, and tensors of several formats, one of them not supported.
inline std::string sample_gguf() {
  gguf_bytes f;
  f.head(5, 17);
  f.key("general.architecture", 8).text("llama");
  f.key("a.u8", 0).number(std::uint8_t(200));
  f.key("a.i8", 1).number(std::int8_t(-2));
  f.key("a.u16", 2).number(std::uint16_t(60000));
  f.key("a.i16", 3).number(std::int16_t(-3));
  f.key("a.u32", 4).u32(4000000000u);
  f.key("a.i32", 5).number(std::int32_t(-4));
  f.key("a.f32", 6).number(1.5f);
  f.key("a.bool", 7).number(std::uint8_t(1));
  f.key("a.u64", 10).u64(1ull << 63);
  f.key("a.i64", 11).number(std::int64_t(-5));
  f.key("a.f64", 12).number(0.1);
  f.key("b.tokens", 9).u32(8).u64(3).text("<s>").text("").text("\xe2\x96\x81the");
  f.key("b.scores", 9).u32(6).u64(3).number(0.0f).number(-1.0f).number(-2.5f);
  f.key("b.flags", 9).u32(7).u64(2).number(std::uint8_t(0)).number(std::uint8_t(1));
  f.key("b.nested", 9).u32(9).u64(2).u32(4).u64(2).u32(1).u32(2).u32(8).u64(1).text("x");
  f.key("b.none", 9).u32(5).u64(0);
  f.tensor("norm.weight", {4}, 0, 0);
  f.tensor("w.weight", {64, 3}, 8, 32);       // Q8_0: 3 rows of 68 bytes
  f.tensor("odd.weight", {256, 1}, 16, 256);  // IQ2_XXS: 66 bytes
  f.tensor("new.weight", {5, 1}, 99, 352);
  f.tensor("cube.weight", {2, 3, 2}, 1, 352);
  f.pad().data(352 + 24);
  return f.out;
}

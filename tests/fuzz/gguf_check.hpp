// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <io/scratch_folder.hpp>
#include <tenon/io/gguf.hpp>

/// Reads all of a value; false when what it says of itself does not agree.
inline bool read_gguf_value(tenon::io::gguf_value const& v, unsigned& sum) {
  namespace io = tenon::io;
  for (auto const b : v.encoded) sum += std::to_integer<unsigned>(b);
  if (auto const strings = io::gguf_value_as<io::gguf_strings>(v)) {
    std::size_t count = 0;
    for (std::string_view const s : *strings) {
      ++count;
      for (char const c : s) sum += static_cast<unsigned char>(c);
    }
    return count == strings->size();
  }
  if (auto const text = io::gguf_value_as<std::string_view>(v)) return text->size() + 12 == v.encoded.size();
  if (v.kind != io::gguf_kind::array) return io::gguf_value_as<bool>(v) || io::gguf_value_as<double>(v);
  std::size_t const width = io::detail::width_of(v.element);
  return width == 0 || v.payload().size() == v.count * width;  // arrays of arrays have been summed up
}

/// Opens what may be a GGUF file. Either it is refused with one sentence, or every promise holds.
/// @param bytes at a multiple of 8   @return what is wrong with the reader; empty when nothing is
inline std::string check_gguf(std::span<std::byte const> bytes, bool* opened = nullptr) {
  try {
    tenon::io::gguf_file const f(bytes, "x.gguf");
    if (opened) *opened = true;
    unsigned sum = 0;
    for (auto const& [key, value] : f.metadata())
      if (key.empty() || !read_gguf_value(value, sum)) return "a value that does not fit its bytes";
    std::size_t total = 0;
    for (auto const& [name, t] : f.tensors()) {
      total += t.bytes.size();
      for (auto const b : t.bytes) sum += std::to_integer<unsigned>(b);  // every byte can be read
      if (t.bytes.size() &&
          (t.bytes.data() < bytes.data() || t.bytes.data() + t.bytes.size() > bytes.data() + bytes.size()))
        return "a tensor outside of the file";
      if (t.bytes.data() && (t.bytes.data() - bytes.data()) % 8) return "a tensor that is not aligned";
      if (!tenon::io::detail::find_weight_format(t.type_number)) continue;
      auto const w = f.find(name);
      if (!w || w->empty()) return "a tensor that cannot be found";
      if (w->rows * w->row_bytes() != tenon::index_t(t.bytes.size())) return "a shape that does not fit its bytes";
    }
    if (total > bytes.size()) return "tensors that share bytes";
    return sum == 0xffffffffu ? "never" : "";
  } catch (tenon::file_error const& e) {
    return is_one_sentence(e.what()) ? "" : "a message that is not one sentence: " + std::string(e.what());
  }
}

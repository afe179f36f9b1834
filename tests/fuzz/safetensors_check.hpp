// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include <io/scratch_folder.hpp>
#include <tenon/io/safetensors.hpp>

/// Opens what may be a safetensors file. Either it is refused with one sentence, or every promise holds.
/// @return what is wrong with the reader; empty when nothing is
inline std::string check_safetensors(std::span<std::byte const> bytes, bool* opened = nullptr) {
  try {
    tenon::io::safetensors_file const f(bytes, "x.safetensors");
    if (opened) *opened = true;
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    std::size_t covered = 0;
    unsigned sum = 0;
    for (auto const& [name, t] : f.tensors()) {
      std::size_t bits = 0;
      for (auto const& type : tenon::io::detail::stored_types)
        if (type.name == t.dtype) bits = std::size_t(type.bits);
      if (!bits) return "an unknown dtype";
      for (auto const s : t.shape) {
        if (s < 0) return "a negative size";
        bits *= std::size_t(s);
      }
      if (bits != t.bytes.size() * 8) return "a shape that does not fit its bytes";
      covered += t.bytes.size();
      for (auto const b : t.bytes) sum += std::to_integer<unsigned>(b);  // every byte can be read
      if (t.dtype == "F32" && std::uintptr_t(t.bytes.data()) % 4 && !t.bytes.empty())
        return "floats that are not aligned";
      if (f.values_of<float>(name, t.shape).size() != t.bytes.size() / 4) return "a typed view of the wrong size";
    }
    if (covered + header + 8 != bytes.size()) return "bytes that belong to no tensor";
    return sum == 0xffffffffu ? "never" : "";
  } catch (tenon::file_error const& e) {
    return is_one_sentence(e.what()) ? "" : "a message that is not one sentence: " + std::string(e.what());
  }
}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <cstdint>
#include <cstring>
#include <string>

/// A file with this header and buffer.
inline std::string safetensors_bytes(std::string const& header, std::string const& buffer) {
  std::uint64_t const length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + buffer;
}
/// A small file with several types, an empty tensor, a scalar and metadata.
inline std::string sample_safetensors() {
  return safetensors_bytes(R"({"__metadata__":{"format":"pt","step":"12"},)"
                           R"("h.0.ln.weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
                           R"("wte":{"dtype":"BF16","shape":[2,3],"data_offsets":[16,28]},)"
                           R"("none":{"dtype":"I64","shape":[0,5],"data_offsets":[28,28]},)"
                           R"("scalar":{"dtype":"I32","shape":[],"data_offsets":[28,32]},)"
                           R"("mask \u00e9":{"dtype":"BOOL","shape":[3],"data_offsets":[32,35]}} )",
                           std::string(35, '\1'));
}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// parity_quantize_program {quantize|dequantize} FORMAT < IN > OUT: one row, little-endian floats or blocks.
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include <tenon/ops/host/quantize.hpp>

using namespace tenon;

int main(int argc, char** argv) {
  std::vector<std::byte> in;
  std::byte buffer[65536];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;) in.insert(in.end(), buffer, buffer + n);
  exec::host_context ctx(2);
  for (std::size_t f = 0; argc == 3 && f < weight_layouts.size(); ++f) {
    auto const& layout = weight_layouts[f];
    if (argv[2] != std::string(layout.name)) continue;
    if (argv[1] == std::string("quantize")) {
      index_t const n = index_t(in.size() / sizeof(float));
      std::vector<std::byte> out(std::size_t(n / layout.values * layout.bytes));
      ops::quantize(ctx,
                    ops::quantize_args{reinterpret_cast<float const*>(in.data()), weight_format(f), out.data(), 1, n});
      std::fwrite(out.data(), 1, out.size(), stdout);
    } else {
      index_t const n = index_t(in.size()) / layout.bytes * layout.values;
      std::vector<float> out(static_cast<std::size_t>(n));
      ops::dequantize(ctx, ops::dequantize_args{{weight_format(f), in.data(), 1, n}, out.data()});
      std::fwrite(out.data(), sizeof(float), out.size(), stdout);
    }
    return 0;
  }
  std::fprintf(stderr, "usage: parity_quantize_program {quantize|dequantize} FORMAT\n");
  return 1;
}

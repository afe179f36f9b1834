// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <tenon/policy/axis.hpp>

namespace tenon {
namespace layout {
/// Activations [tokens, features], rows one after the other; sequences of equal length. The default.
struct row_major {
  using axis = layout_axis;
};
/// Activations in tiles of Rows x Columns. The type is here; its kernels come with the device release.
template <int Rows, int Columns>
  requires(Rows > 0 && Columns > 0)
struct tiled {
  using axis = layout_axis;
};
/// Sequences of different length, one after the other without padding. The attention kernels read it already
/// (`sequence_begins`); the data loader that packs comes with the data release.
struct packed {
  using axis = layout_axis;
};
}  // namespace layout
}  // namespace tenon

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Which block of quantized weights stands best for given numbers. The order of every operation is that of ggml's
/// reference, so that the blocks are the same to the bit.
/// @source quantize_row_*_ref and their make_*_quants in ggml-quants.c
#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include <tenon/ops/host/block_codec.hpp>

namespace tenon::ops::detail {

/// The nearest integer, ties to even, of a number of at most 22 bits; of a larger one some integer.
inline int nearest(float x) { return int(std::bit_cast<std::uint32_t>(x + 12582912.0f) & 0x7fffffu) - 0x400000; }
/// The whole part of x between 0 and most; 0 for what is no number.
inline int level_below(float x, int most) { return !(x > 0) ? 0 : x >= float(most) ? most : int(x); }

/// Numbers whose magnitude is below this are taken for zeros.
inline constexpr float group_epsilon = 1e-15f;

/// The number of largest magnitude, with its sign; the first of several.
inline float largest(float const* x, int n) {
  float most = 0, value = 0;
  for (int i = 0; i < n; ++i)
    if (std::fabs(x[i]) > most) most = std::fabs(value = x[i]);
  return value;
}
inline std::pair<float, float> least_and_most(float const* x, int n) {
  float least = FLT_MAX, most = -FLT_MAX;
  for (int i = 0; i < n; ++i) {
    least = x[i] < least ? x[i] : least;
    most = x[i] > most ? x[i] : most;
  }
  return {least, most};
}
inline float inverse_or_zero(float d) { return d != 0 ? 1.0f / d : 0.0f; }

/// Levels 0..Most, a scale and what is to be subtracted, for numbers near scale * level - minimum.
template <int N>
struct affine_fit {
  std::array<std::uint8_t, std::size_t(N)> levels{};
  float scale = 0, minimum = 0;
};
/// The scales of the span of x, and slightly smaller or larger ones, are tried: each gives levels, for which the best
/// scale and minimum by weighted least squares are known; what errs the least is taken. `Absolute`: errors are measured
/// by magnitude, not squared.
template <int N, int Most, bool Absolute>
affine_fit<N> fit_affine(float const* x, float const* weight, float first_step, int steps) {
  affine_fit<N> best;
  float sum_w = weight[0], sum_x = sum_w * x[0], least = x[0], most = x[0];
  for (int i = 1; i < N; ++i) {
    least = x[i] < least ? x[i] : least;
    most = x[i] > most ? x[i] : most;
    sum_w += weight[i];
    sum_x += weight[i] * x[i];
  }
  if (least > 0) least = 0;
  best.minimum = -least;
  if (most == least) return best;
  auto const level = [&](float inverse, int i) { return std::clamp(nearest(inverse * (x[i] - least)), 0, Most); };
  auto const error = [&](auto const& levels, float scale, float minimum) {
    float sum = 0;
    for (int i = 0; i < N; ++i) {
      float const d = scale * float(levels[std::size_t(i)]) + minimum - x[i];
      sum += weight[i] * (Absolute ? std::fabs(d) : d * d);
    }
    return sum;
  };
  float const inverse = float(Most) / (most - least);
  best.scale = 1 / inverse;
  for (int i = 0; i < N; ++i) best.levels[std::size_t(i)] = std::uint8_t(level(inverse, i));
  float best_error = error(best.levels, best.scale, least);
  for (int step = 0; step <= steps; ++step) {
    float const tried = (first_step + 0.1f * float(step) + float(Most)) / (most - least);
    std::array<std::uint8_t, std::size_t(N)> levels;
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int i = 0; i < N; ++i) {
      int const l = level(tried, i);
      levels[std::size_t(i)] = std::uint8_t(l);
      float const wl = weight[i] * float(l);
      sum_l += wl;
      sum_l2 += wl * float(l);
      sum_xl += wl * x[i];
    }
    float const determinant = sum_w * sum_l2 - sum_l * sum_l;
    if (!(determinant > 0)) continue;
    float scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    float minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    if (minimum > 0) {
      minimum = 0;
      scale = sum_xl / sum_l2;
    }
    float const now = error(levels, scale, minimum);
    if (!(now < best_error)) continue;
    best_error = now;
    least = minimum;  // and the following scales span the numbers from there
    best = {levels, scale, -minimum};
  }
  return best;
}

/// Sixteen levels from -Zero to Zero - 1 and a scale.
struct centred_fit {
  std::array<std::int8_t, 16> levels{};
  float scale = 0;
};
template <int Zero>
int centred_level(float x) {
  return std::clamp(nearest(x), -Zero, Zero - 1);
}
/// Nineteen scales around the one that gives the largest number the level -Zero; the squares of x are the weights.
template <int Zero>
centred_fit fit_centred(float const* x) {
  centred_fit best;
  float const max = largest(x, 16);
  if (std::fabs(max) < group_epsilon) {
    best.levels.fill(-Zero);
    return best;
  }
  float best_gain = 0;
  auto const attempt = [&](float inverse, bool is_first) {
    std::array<std::int8_t, 16> levels;
    float sum_lx = 0, sum_l2 = 0;
    for (int i = 0; i < 16; ++i) {
      int const l = centred_level<Zero>(inverse * x[i]);
      levels[std::size_t(i)] = std::int8_t(l);
      float const w = x[i] * x[i];
      sum_lx += w * x[i] * float(l);
      sum_l2 += w * float(l) * float(l);
    }
    if (!is_first && !(sum_l2 > 0 && sum_lx * sum_lx > best_gain * sum_l2)) return;
    best = {levels, sum_l2 != 0 ? sum_lx / sum_l2 : 0.0f};
    best_gain = best.scale * sum_lx;
  };
  attempt(-float(Zero) / max, true);
  for (int step = -9; step <= 9; ++step)
    if (step != 0) attempt(-(float(Zero) + 0.1f * float(step)) / max, false);
  return best;
}
/// The same for few levels: from the first guess on, one level after the other is moved to where it errs the least.
template <int Zero>
centred_fit fit_centred_by_steps(float const* x) {
  centred_fit fit;
  float const max = largest(x, 16);
  if (std::fabs(max) < group_epsilon) {
    fit.levels.fill(-Zero);
    return fit;
  }
  float const inverse = -float(Zero) / max;
  float sum_lx = 0, sum_l2 = 0;
  for (int i = 0; i < 16; ++i) {
    int const l = centred_level<Zero>(inverse * x[i]);
    fit.levels[std::size_t(i)] = std::int8_t(l);
    float const w = x[i] * x[i];
    sum_lx += w * x[i] * float(l);
    sum_l2 += w * float(l) * float(l);
  }
  bool changed = true;
  for (int turn = 0; turn < 5 && changed; ++turn) {
    changed = false;
    for (int i = 0; i < 16; ++i) {
      std::int8_t& level = fit.levels[std::size_t(i)];
      float const w = x[i] * x[i], wx = w * x[i];
      float lx = sum_lx - wx * float(level), l2 = sum_l2 - w * float(level) * float(level);
      if (!(lx > 0)) continue;
      int const other = centred_level<Zero>(x[i] * l2 / lx);
      if (other == level) continue;
      lx += wx * float(other);
      l2 += w * float(other) * float(other);
      if (!(l2 > 0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2)) continue;
      level = std::int8_t(other);
      sum_lx = lx, sum_l2 = l2;
      changed = true;
    }
  }
  fit.scale = sum_l2 > 0 ? sum_lx / sum_l2 : 0.0f;
  return fit;
}

template <int Bits>
void encode_block(centred_codec<Bits>, float const* x, block_byte* b) {
  using codec = centred_codec<Bits>;
  float const d = largest(x, 32) / -float(codec::zero), inverse = inverse_or_zero(d);
  put_half(b, d);
  for (int i = 0; i < 32; ++i)
    codec::levels::put(b, i, level_below(x[i] * inverse + (float(codec::zero) + 0.5f), 2 * codec::zero - 1));
}
template <int Bits>
void encode_block(affine_codec<Bits>, float const* x, block_byte* b) {
  using codec = affine_codec<Bits>;
  auto const [least, most] = least_and_most(x, 32);
  float const d = (most - least) / float(codec::most), inverse = inverse_or_zero(d);
  put_half(b, d);
  put_half(b + 2, least);
  for (int i = 0; i < 32; ++i) codec::levels::put(b, i, level_below((x[i] - least) * inverse + 0.5f, codec::most));
}
inline void encode_block(block_codec<weight_format::q8_0>, float const* x, block_byte* b) {
  float const d = std::fabs(largest(x, 32)) / 127.0f, inverse = inverse_or_zero(d);
  put_half(b, d);
  for (int i = 0; i < 32; ++i) {
    float const level = std::round(x[i] * inverse);
    b[2 + i] = block_byte(!(level > -127) ? -127 : level < 127 ? int(level) : 127);
  }
}

inline void encode_block(block_codec<weight_format::q2_k>, float const* x, block_byte* b) {
  using codec = block_codec<weight_format::q2_k>;
  std::array<affine_fit<16>, 16> fits;
  float most_scale = 0, most_minimum = 0;
  for (int s = 0; s < 16; ++s) {
    float weight[16];
    for (int i = 0; i < 16; ++i) weight[i] = std::fabs(x[16 * s + i]);
    fits[std::size_t(s)] = fit_affine<16, 3, true>(x + 16 * s, weight, -0.5f, 15);
    most_scale = std::max(most_scale, fits[std::size_t(s)].scale);
    most_minimum = std::max(most_minimum, fits[std::size_t(s)].minimum);
  }
  float const to_scale = most_scale > 0 ? 15 / most_scale : 0.0f,
              to_minimum = most_minimum > 0 ? 15 / most_minimum : 0.0f;
  float const d = put_half(b + 80, most_scale / 15), minimum = put_half(b + 82, most_minimum / 15);
  for (int s = 0; s < 16; ++s) {
    auto& fit = fits[std::size_t(s)];
    int const scale = nearest(to_scale * fit.scale) & 15, offset = nearest(to_minimum * fit.minimum) & 15;
    b[s] = block_byte(scale | offset << 4);
    float const factor = d * float(scale), subtracted = minimum * float(offset);
    for (int i = 0; i < 16; ++i) {
      int level = fit.levels[std::size_t(i)];
      if (factor != 0) level = std::clamp(nearest((x[16 * s + i] + subtracted) / factor), 0, 3);
      codec::levels::put(b, 16 * s + i, level);
    }
  }
}

inline void encode_block(block_codec<weight_format::q3_k>, float const* x, block_byte* b) {
  using codec = block_codec<weight_format::q3_k>;
  std::array<centred_fit, 16> fits;
  float scales[16];
  for (int s = 0; s < 16; ++s) {
    fits[std::size_t(s)] = fit_centred_by_steps<4>(x + 16 * s);
    scales[s] = fits[std::size_t(s)].scale;
  }
  float const most = largest(scales, 16), inverse = most != 0 ? -32.0f / most : 0.0f;
  float const d = put_half(b + 108, most != 0 ? 1 / inverse : 0.0f);
  for (int s = 0; s < 16; ++s) {
    int const scale = most != 0 ? std::clamp(int(std::int8_t(nearest(inverse * scales[s]))), -32, 31) : -32;
    codec::put_scale(b, s, scale);
    float const factor = d * float(scale);
    for (int i = 0; i < 16; ++i) {
      int level = fits[std::size_t(s)].levels[std::size_t(i)];
      if (factor != 0) level = centred_level<4>(x[16 * s + i] / factor);
      codec::levels::put(b, 16 * s + i, level);
    }
  }
}

template <int Bits>
void encode_block(scaled_affine_codec<Bits>, float const* x, block_byte* b) {
  using codec = scaled_affine_codec<Bits>;
  std::array<affine_fit<32>, 8> fits;
  float most_scale = 0, most_minimum = 0;
  for (int s = 0; s < 8; ++s) {
    float const* const part = x + 32 * s;
    float squares = 0, weight[32];
    for (int i = 0; i < 32; ++i) squares += part[i] * part[i];
    float const average = std::sqrt(squares / 32);
    for (int i = 0; i < 32; ++i) weight[i] = average + std::fabs(part[i]);
    fits[std::size_t(s)] =
        fit_affine<32, codec::most, false>(part, weight, Bits == 4 ? -1.0f : -0.5f, Bits == 4 ? 20 : 15);
    most_scale = std::max(most_scale, fits[std::size_t(s)].scale);
    most_minimum = std::max(most_minimum, fits[std::size_t(s)].minimum);
  }
  float const to_scale = most_scale > 0 ? 63 / most_scale : 0.0f,
              to_minimum = most_minimum > 0 ? 63 / most_minimum : 0.0f;
  float const d = put_half(b, most_scale / 63), minimum = put_half(b + 2, most_minimum / 63);
  for (int s = 0; s < 8; ++s) {
    auto& fit = fits[std::size_t(s)];
    int const scale = std::min(63, nearest(to_scale * fit.scale) & 255);
    int const offset = std::min(63, nearest(to_minimum * fit.minimum) & 255);
    codec::put_scales(b, s, scale, offset);
    float const factor = d * float(scale), subtracted = minimum * float(offset);
    for (int i = 0; i < 32; ++i) {
      int level = fit.levels[std::size_t(i)];
      if (factor != 0) level = std::clamp(nearest((x[32 * s + i] + subtracted) / factor), 0, codec::most);
      codec::levels::put(b, 32 * s + i, level);
    }
  }
}

inline void encode_block(block_codec<weight_format::q6_k>, float const* x, block_byte* b) {
  using codec = block_codec<weight_format::q6_k>;
  std::array<centred_fit, 16> fits;
  float scales[16];
  for (int s = 0; s < 16; ++s) {
    fits[std::size_t(s)] = fit_centred<32>(x + 16 * s);
    scales[s] = fits[std::size_t(s)].scale;
  }
  float const most = largest(scales, 16);
  if (std::fabs(most) < group_epsilon) return;
  float const inverse = -128.0f / most, d = put_half(b + 208, 1 / inverse);
  for (int s = 0; s < 16; ++s) {
    int const scale = std::min(127, nearest(inverse * scales[s]));
    b[codec::scales_at + s] = block_byte(scale);
    float const factor = d * float(static_cast<signed char>(scale));
    for (int i = 0; i < 16; ++i) {
      int level = fits[std::size_t(s)].levels[std::size_t(i)];
      if (factor != 0) level = centred_level<32>(x[16 * s + i] / factor);
      codec::levels::put(b, 16 * s + i, level);
    }
  }
}

/// The place of the entry nearest to x; of two the lower.
inline int nearest_entry(float x) {
  auto const& v = iq4_nl_values;
  if (!(x > v[0])) return 0;
  if (x >= v[15]) return 15;
  auto const above = std::size_t(std::upper_bound(v.begin(), v.end(), x) - v.begin());
  return int(x - v[above - 1] < v[above] - x ? above - 1 : above);
}
inline void encode_block(block_codec<weight_format::iq4_nl>, float const* x, block_byte* b) {
  using codec = block_codec<weight_format::iq4_nl>;
  float const max = largest(x, 32);
  float scale = 0;
  if (std::fabs(max) >= group_epsilon) {
    float gain = 0;
    auto const attempt = [&](float inverse, bool is_first) {
      float sum_qx = 0, sum_q2 = 0;
      for (int i = 0; i < 32; ++i) {
        float const q = iq4_nl_values[std::size_t(nearest_entry(inverse * x[i]))], wq = x[i] * x[i] * q;
        sum_qx += wq * x[i];
        sum_q2 += wq * q;
      }
      if (!is_first && !(sum_q2 > 0 && sum_qx * sum_qx > gain * sum_q2)) return;
      scale = sum_q2 > 0 ? sum_qx / sum_q2 : 0.0f;
      gain = scale * sum_qx;
    };
    attempt(1 / (-max / iq4_nl_values[0]), true);
    for (int step = -7; step <= 7; ++step) attempt((float(step) + iq4_nl_values[0]) / max, false);
  }
  put_half(b, scale);
  float const inverse = inverse_or_zero(scale);
  for (int i = 0; i < 32; ++i) codec::levels::put(b, i, nearest_entry(inverse * x[i]));
}

inline void encode_block(block_codec<weight_format::mxfp4>, float const* x, block_byte* b) {
  using codec = block_codec<weight_format::mxfp4>;
  float const most = std::fabs(largest(x, 32));
  // The largest value of an element has the exponent 2.
  b[0] = block_byte(most > 0 ? std::max(0, std::ilogb(most) - 2 + 127) : 0);
  float const d = mxfp4_scale(b[0]);
  for (int i = 0; i < 32; ++i) {
    int best = 0;
    for (int e = 1; e < 16; ++e)
      if (std::fabs(mxfp4_values[std::size_t(e)] * d - x[i]) < std::fabs(mxfp4_values[std::size_t(best)] * d - x[i]))
        best = e;
    codec::levels::put(b, i, best);
  }
}

}  // namespace tenon::ops::detail

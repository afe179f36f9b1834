// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Element types narrower than fp32. All conversions round to nearest, ties to even.
/// @source IEEE 754-2019 binary16; bfloat16 as in Intel 338302; FP8: Micikevicius et al. 2022, arXiv:2209.05433
#include <bit>
#include <concepts>
#include <cstdint>

namespace tenon {
namespace detail {

/// Rounds a float to a small binary format and returns its bits (sign, exponent, mantissa, right-aligned).
/// A NaN stays one, made quiet, with the leading bits of its payload (as hardware conversions do).
/// `Finite`: the format has no infinity and one NaN per sign (all ones); overflow gives NaN (e4m3, as OCP FP8 without
/// saturation).
template <int ExponentBits, int MantissaBits, bool Finite>
constexpr std::uint32_t float_to_small(float value) {
  constexpr int bias = (1 << (ExponentBits - 1)) - 1;
  constexpr std::uint32_t exponent_all_ones = (1u << ExponentBits) - 1;
  constexpr std::uint32_t infinity = exponent_all_ones << MantissaBits;
  constexpr std::uint32_t nan = Finite ? infinity | ((1u << MantissaBits) - 1) : infinity | (1u << (MantissaBits - 1));
  constexpr std::uint32_t largest = Finite ? nan - 1 : infinity - 1;
  std::uint32_t const bits = std::bit_cast<std::uint32_t>(value);
  std::uint32_t const sign = (bits >> 31) << (ExponentBits + MantissaBits);
  std::uint32_t const magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | nan | (magnitude >> (23 - MantissaBits) & ((1u << MantissaBits) - 1));
  if (magnitude == 0x7f800000u) return sign | (Finite ? nan : infinity);
  int const exponent = int(magnitude >> 23) - 127;
  std::uint32_t mantissa = magnitude & 0x7fffffu;
  if (magnitude >> 23) mantissa |= 0x800000u;
  int shift = 23 - MantissaBits;  // drop this many bits
  if (exponent < 1 - bias) shift += (1 - bias) - exponent;
  if (shift > 25) return sign;
  std::uint32_t rounded = mantissa >> shift;
  std::uint32_t const rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
  if (rest > half || (rest == half && (rounded & 1u))) ++rounded;
  // Normal numbers carry their hidden bit: adding the biased exponent minus one lets a carry move up by itself.
  std::uint32_t const out =
      exponent < 1 - bias ? rounded : rounded + (std::uint32_t(exponent + bias - 1) << MantissaBits);
  return sign | (out > largest ? (Finite ? nan : infinity) : out);
}

template <int ExponentBits, int MantissaBits, bool Finite>
constexpr float small_to_float(std::uint32_t bits) {
  constexpr int bias = (1 << (ExponentBits - 1)) - 1;
  constexpr std::uint32_t exponent_all_ones = (1u << ExponentBits) - 1;
  std::uint32_t const sign = (bits >> (ExponentBits + MantissaBits)) << 31;
  std::uint32_t const exponent = (bits >> MantissaBits) & exponent_all_ones;
  std::uint32_t mantissa = bits & ((1u << MantissaBits) - 1);
  if (exponent == exponent_all_ones && (!Finite || mantissa == (1u << MantissaBits) - 1))
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa ? (mantissa << (23 - MantissaBits)) | 0x400000u : 0u));
  if (exponent == 0) {
    if (mantissa == 0) return std::bit_cast<float>(sign);
    int e = 1 - bias;
    while (!(mantissa >> MantissaBits)) mantissa <<= 1, --e;
    mantissa &= (1u << MantissaBits) - 1;
    static_assert(bias < 127, "a format with the exponents of fp32 has subnormals that are not normal in fp32");
    return std::bit_cast<float>(sign | (std::uint32_t(e + 127) << 23) | (mantissa << (23 - MantissaBits)));
  }
  return std::bit_cast<float>(sign | ((exponent - bias + 127) << 23) | (mantissa << (23 - MantissaBits)));
}

template <class Storage, int ExponentBits, int MantissaBits, bool Finite>
struct small_float {
  Storage bits;
  small_float() = default;
  constexpr explicit small_float(float v) : bits(Storage(float_to_small<ExponentBits, MantissaBits, Finite>(v))) {}
  constexpr explicit operator float() const { return small_to_float<ExponentBits, MantissaBits, Finite>(bits); }
  static constexpr small_float from_bits(Storage b) {
    small_float f{};
    f.bits = b;
    return f;
  }
  constexpr bool operator==(small_float o) const { return float(*this) == float(o); }
};

}  // namespace detail

/// bfloat16: 8 exponent bits, 7 mantissa bits: the upper half of a float.
struct bf16 {
  std::uint16_t bits;
  bf16() = default;
  constexpr explicit bf16(float v) : bits(round(v)) {}
  constexpr explicit operator float() const { return std::bit_cast<float>(std::uint32_t(bits) << 16); }
  static constexpr bf16 from_bits(std::uint16_t b) {
    bf16 f{};
    f.bits = b;
    return f;
  }
  constexpr bool operator==(bf16 o) const { return float(*this) == float(o); }

 private:
  static constexpr std::uint16_t round(float v) {
    std::uint32_t const b = std::bit_cast<std::uint32_t>(v);
    if ((b & 0x7fffffffu) > 0x7f800000u) return std::uint16_t((b >> 16) | 0x40u);
    return std::uint16_t((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
  }
};
/// IEEE binary16: 5 exponent bits, 10 mantissa bits.
struct fp16 : detail::small_float<std::uint16_t, 5, 10, false> {
  using small_float::small_float;
  fp16() = default;
  constexpr fp16(small_float f) : small_float(f) {}
};
/// OCP FP8 E4M3: largest 448, no infinity; overflow gives NaN.
struct fp8_e4m3 : detail::small_float<std::uint8_t, 4, 3, true> {
  using small_float::small_float;
  fp8_e4m3() = default;
  constexpr fp8_e4m3(small_float f) : small_float(f) {}
};
/// OCP FP8 E5M2: largest 57344, with infinity.
struct fp8_e5m2 : detail::small_float<std::uint8_t, 5, 2, false> {
  using small_float::small_float;
  fp8_e5m2() = default;
  constexpr fp8_e5m2(small_float f) : small_float(f) {}
};

/// A type that tensors hold and host kernels read and write through fp32.
template <class T>
concept Element = std::same_as<T, float> || std::same_as<T, bf16> || std::same_as<T, fp16> ||
    std::same_as<T, fp8_e4m3> || std::same_as<T, fp8_e5m2>;

/// The name an element type has in safetensors files and messages.
template <class T>
constexpr char const* element_name() {
  if constexpr (std::same_as<T, float>) return "F32";
  else if constexpr (std::same_as<T, bf16>) return "BF16";
  else if constexpr (std::same_as<T, fp16>) return "F16";
  else if constexpr (std::same_as<T, fp8_e4m3>) return "F8_E4M3";
  else return "F8_E5M2";
}

}  // namespace tenon

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes category_tables.hpp and normalization_tables.hpp of include/tenon/text/.

usage: pip install unicodedata2==16.0.0 && python3 cmake/unicode_tables.py include/tenon/text

The version is that of the regular expressions in Hugging Face's `tokenizers` 0.23, which parity tests compare with.
"""
import sys

import unicodedata2 as ucd

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()


def rows(numbers):
    line, lines = "   ", []
    for n in numbers:
        text = f" {n:#x}," if n > 9 else f" {n},"
        if len(line) + len(text) > 120:
            lines.append(line)
            line = "   "
        line += text
    return "\n".join(lines + [line])


def array(name, comment, numbers, kind="std::uint32_t"):
    return f"/// {comment}\ninline constexpr {kind} {name}[] = {{\n{rows(numbers)}\n}};\n"


def ranges(value_of, default):
    """begin and value of each maximal range whose value is the same; gaps have the default value."""
    out, last = [], default
    for c in range(0x110000):
        value = value_of(c)
        if value != last:
            out.append((c, value))
            last = value
    return out


def lower_ranges():
    """(first, count, step, difference) of runs of letters whose lower case is at one distance."""
    pairs = [(c, simple_lower(c)) for c in CODE_POINTS if simple_lower(c) != c]
    runs = []
    for c, lower in pairs:
        if runs:
            first, last, step, distance = runs[-1]
            if distance == lower - c and c - last <= 2 and (first == last or step == c - last):
                runs[-1] = (first, c, c - last, distance)
                continue
        runs.append((c, c, 1, lower - c))
    return runs


# Pairs newer than Python 3.11's own tables (Unicode 14).
NEW_LOWER = {0x1C89: 0x1C8A, 0xA7CB: 0x264, 0xA7CC: 0xA7CD, 0xA7DA: 0xA7DB, 0xA7DC: 0x19B}
NEW_LOWER |= {c: c + 0x20 for c in range(0x10D50, 0x10D66)}


def simple_lower(c):
    lower = chr(c).lower()
    return NEW_LOWER.get(c, ord(lower) if len(lower) == 1 else c)


def main(folder):
    category = ranges(lambda c: CATEGORIES.index(ucd.category(chr(c))), CATEGORIES.index("Cn"))
    combining = ranges(lambda c: 0 if 0xD800 <= c < 0xE000 else ucd.combining(chr(c)), 0)
    canonical = []
    for c in CODE_POINTS:
        text = ucd.decomposition(chr(c))
        if text and not text.startswith("<"):
            parts = [int(p, 16) for p in text.split()]
            canonical.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
    # Pairs that compose: what NFC makes of the two is the letter itself.
    composes = lambda c, a, b: b and ucd.normalize("NFC", chr(a) + chr(b)) == chr(c)
    seconds = {b for c, a, b in canonical if composes(c, a, b)}
    seconds |= set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    changes = lambda c: not 0xD800 <= c < 0xE000 and (
        ucd.normalize("NFC", chr(c)) != chr(c) or c in seconds or ucd.combining(chr(c)) != 0)
    unsafe = ranges(lambda c: int(changes(c)), 0)
    lower = lower_ranges()
    write(folder + "/category_tables.hpp", "categories and small letters", [
        array("category_ranges",
              "`first code point << 5 | category` of each range; the category is the place in\n"
              f"/// `{' '.join(CATEGORIES)}`.", [c << 5 | v for c, v in category]),
        array("lower_ranges",
              "Capital letters: first, last, step, and what to add for the small letter (modulo 2^32).",
              [n for first, last, step, distance in lower for n in (first, last, step, distance % (1 << 32))])])
    write(folder + "/normalization_tables.hpp", "canonical decompositions", [
        array("combining_ranges", "`first code point << 8 | canonical combining class` of each range.",
              [c << 8 | v for c, v in combining]),
        array("nfc_unsafe_ranges", "Where code points that NFC may change begin and, in turn, end.",
              [c for c, _ in unsafe]),
        array("canonical_pairs",
              "Canonical decompositions of one step: code point, first, second (0: there is none), with bit 31 of the\n"
              "/// code point set where the pair composes again.",
              [n for c, a, b in canonical for n in (c | (0x80000000 if composes(c, a, b) else 0), a, b)])])


def write(path, what, arrays):
    with open(path, "w") as out:
        out.write(f"""// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Unicode {ucd.unidata_version}: {what}; written by cmake/unicode_tables.py.
#include <cstdint>

// clang-format off
namespace tenon::text::detail {{

{chr(10).join(arrays)}
}}  // namespace tenon::text::detail
""")


main(sys.argv[1])

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include <io/safetensors_samples.hpp>
#include <io/scratch_folder.hpp>
#include <tenon/io/safetensors.hpp>

namespace io = tenon::io;
using tenon::index_t;

namespace {

/// What opening this header with this many bytes of buffer says; empty when it opens.
std::string verdict(std::string const& header, std::size_t buffer = 0) {
  std::string const file = safetensors_bytes(header, std::string(buffer, '\1'));
  return message_of([&] { io::safetensors_file f(std::as_bytes(std::span(file)), "x.safetensors"); });
}
bool says(std::string const& message, std::string const& part) {
  CAPTURE(message);
  CHECK(is_one_sentence(message));
  CHECK(message.rfind("x.safetensors: ", 0) == 0);
  return message.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("safetensors: what is written is read, and typed access is checked") {
  scratch_folder const folder;
  float const weight[6] = {1, 2, 3, 4, 5, -6.5f};
  tenon::bf16 const half[3] = {tenon::bf16(1.5f), tenon::bf16(-2.0f), tenon::bf16(0.0f)};
  std::int64_t const steps[1] = {1234567890123};
  auto const file = folder / "model.safetensors";
  io::write_safetensors(file,
                        {io::stored_as("h.0.b", {3}, half), io::stored_as("w", {2, 3}, weight),
                         io::stored_as("step", {}, steps), io::stored_as("empty", {0, 7}, weight)},
                        {{"format", "tenon"}, {"text \"q\"\n", "\xc3\xa9\x01"}});
  io::safetensors_file const f(file);
  CHECK(f.tensors().size() == 4);
  CHECK(f.metadata().at("text \"q\"\n") == "\xc3\xa9\x01");
  auto const w = f.view_of<float>("w", {2, 3});
  CHECK(w(1, 2) == -6.5f);
  CHECK(w(0, 1) == 2.0f);
  CHECK(float(f.values_of<tenon::bf16>("h.0.b", {3})[1]) == -2.0f);
  CHECK(f.values_of<std::int64_t>("step", {})[0] == steps[0]);
  CHECK(f.values_of<float>("empty", {0, 7}).empty());
  CHECK(f.contains("w"));
  CHECK_FALSE(f.contains("v"));
  std::string const name = file.string();
  CHECK(message_of([&] {
          f.view_of<float>("w", {3, 2});
        }) ==
        name +
            ": tensor 'w' is F32 [2, 3], but F32 [3, 2] is expected. Fix: use a file of the same model and precision.");
  CHECK(message_of([&] {
          f.view_of<tenon::fp16>("w", {2, 3});
        }) ==
        name +
            ": tensor 'w' is F32 [2, 3], but F16 [2, 3] is expected. Fix: use a file of the same model and precision.");
  CHECK(message_of([&] { f.at("v"); }) ==
        name + ": has no tensor 'v' (it has 4, the first is 'empty'). Fix: use a file of the same kind of model.");
}

TEST_CASE("safetensors: the file is a function of what is in it") {
  scratch_folder const folder;
  float const a[4] = {1, 2, 3, 4};
  std::uint8_t const b[3] = {1, 2, 3};
  io::write_safetensors(folder / "1",
                        {io::stored_as("a", {4}, a), io::stored_as("b", {3}, b), io::stored_as("c", {1}, a)});
  io::write_safetensors(folder / "2",
                        {io::stored_as("c", {1}, a), io::stored_as("b", {3}, b), io::stored_as("a", {4}, a)});
  CHECK(folder.read("1") == folder.read("2"));
  std::string const bytes = folder.read("1");
  CHECK((8 + std::size_t(std::uint8_t(bytes[0])) + 256 * std::size_t(std::uint8_t(bytes[1]))) % 4096 == 0);
}

TEST_CASE("safetensors: a file cut anywhere is refused") {
  std::string const whole = sample_safetensors();
  auto const open = [](std::string const& s) { io::safetensors_file f(std::as_bytes(std::span(s)), "x.safetensors"); };
  CHECK(message_of([&] { open(whole); }).empty());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    // A heap copy of exactly this length, so that reading past the end is seen by the address sanitizer.
    std::vector<char> const cut(whole.begin(), whole.begin() + std::ptrdiff_t(length));
    std::string const m = message_of([&] { io::safetensors_file f(std::as_bytes(std::span(cut)), "x.safetensors"); });
    if (!is_one_sentence(m)) FAIL("length " << length << ": '" << m << "'");
    if (length > 8 && m.find("truncated") == std::string::npos) FAIL("length " << length << ": '" << m << "'");
  }
  CHECK(says(message_of([&] { open(whole + "x"); }), "1 bytes that belong to no tensor"));
}

TEST_CASE("safetensors: every broken promise is named") {
  std::string const ok = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  CHECK(verdict(ok, 8).empty());
  CHECK(verdict(ok + "    ", 8).empty());
  CHECK(verdict("{}").empty());
  CHECK(verdict(R"({"__metadata__":{}})").empty());
  CHECK(verdict(R"({"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}})", 3).empty());
  CHECK(verdict(R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}})", 3).empty());
  CHECK(verdict(R"({"a":{"dtype":"F32","shape":[0,9],"data_offsets":[0,0]}})").empty());
  CHECK(says(verdict(ok, 7), "is truncated: the header speaks of 70 bytes, the file has 69"));
  CHECK(says(verdict(ok, 9), "1 bytes that belong to no tensor"));
  CHECK(says(verdict(" {}"), "is not a safetensors file"));
  CHECK(says(verdict("[1]"), "is not a safetensors file"));
  CHECK(says(verdict("{} {}"), "no valid JSON"));
  CHECK(says(verdict("{\"a\":"), "no valid JSON at byte"));
  CHECK(says(verdict("{\"\xff\":{}}"), "no valid JSON"));
  CHECK(says(verdict(R"({"a":1})"), "a number"));
  CHECK(says(verdict(R"({"a":null})"), "null"));
  CHECK(says(verdict(R"({"a":[{}]})"), "an array"));
  CHECK(says(verdict(R"({"a":{}})"), "tensor 'a' lacks its dtype, shape or data_offsets"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[2]}})"), "lacks"));
  CHECK(says(verdict(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8), "unknown dtype 'F33'"));
  CHECK(says(verdict(R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", 8), "a number in its field 'dtype'"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8), "a number in its field 'shape'"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "a negative number"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8), "the number 2.0"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", 8), "an array"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}})", 8), "more than two data_offsets"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}})", 8), "fewer than two data_offsets"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), "do not agree"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8), "do not agree"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8), "unknown field 'x'"));
  CHECK(says(verdict(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "'dtype' twice"));
  CHECK(says(
      verdict(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
          2),
      "the key 'a' twice"));
  CHECK(says(verdict(R"({"__metadata__":{"k":"1","k":"2"}})"), "the key 'k' twice"));
  CHECK(says(verdict(R"({"__metadata__":{},"__metadata__":{}})"), "twice"));
  CHECK(says(verdict(R"({"__metadata__":{"k":1}})"), "a number"));
  // Sizes whose product overflows to something that fits.
  CHECK(says(verdict(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})"), "do not agree"));
  CHECK(says(verdict(R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})"), "do not agree"));
  CHECK(says(verdict(R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0]}})"), "above 2^63"));
  CHECK(
      says(verdict(R"({"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,0]}})"), "the number 9999"));
  CHECK(says(verdict(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[9223372036854775807,9223372036854775807]}})"),
             "begins at"));
  CHECK(says(verdict(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1), "do not agree"));
  // A hole, an overlap, and a hole at the beginning.
  std::string const first =
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":)";
  CHECK(verdict(first + "[4,8]}}", 8).empty());
  CHECK(says(verdict(first + "[5,9]}}", 9), "tensor 'b' begins at 5 but the one before ends at 4"));
  CHECK(says(verdict(first + "[3,7]}}", 7), "tensor 'b' begins at 3"));
  CHECK(says(verdict(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", 5), "begins at 1"));
  // A header that claims to be longer than any header may be.
  std::string huge = safetensors_bytes("{}", "");
  huge[6] = 1;
  CHECK(says(message_of([&] { io::safetensors_file f(std::as_bytes(std::span(huge)), "x.safetensors"); }),
             "is not a safetensors file"));
  CHECK(says(verdict("{" + std::string(100000, '[')), "no valid JSON"));
  CHECK(says(verdict("{\"a\":" + std::string(100000, '[')), "an array"));
}

TEST_CASE("safetensors: foreign files are named for what they are") {
  auto const m = [](std::string const& content) {
    return message_of([&] { io::safetensors_file f(std::as_bytes(std::span(content)), "x.safetensors"); });
  };
  CHECK(says(m(""), "is empty"));
  CHECK(says(m("GGUF" + std::string(100, '\0')), "GGUF"));
  CHECK(says(m("PK\x03\x04" + std::string(100, '\0')), "PyTorch or zip"));
  CHECK(says(m("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a"), "Git LFS pointer"));
  CHECK(says(m("It was the best of times, it was the worst of times"), "is not a safetensors file."));
}

TEST_CASE("safetensors: tensors that begin anywhere are still aligned for their type") {
  // One byte, then floats at offset 1: legal, and met in files of other writers.
  std::string const header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  float const values[2] = {1.25f, -3.0f};
  std::string file = safetensors_bytes(header, "z" + std::string(reinterpret_cast<char const*>(values), 8));
  io::safetensors_file opened(std::as_bytes(std::span(file)), "x");
  io::safetensors_file const f = std::move(opened);
  auto const b = f.values_of<float>("b", {2});
  CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % alignof(float) == 0);
  CHECK(b[0] == 1.25f);
  CHECK(b[1] == -3.0f);
}

TEST_CASE("safetensors: the writer refuses what the reader would") {
  scratch_folder const folder;
  float const x[4] = {};
  auto const refused = [&](std::initializer_list<io::tensor_to_write> tensors,
                           io::safetensors_file::text_map const& text = {}) {
    return is_one_sentence(message_of([&] { io::write_safetensors(folder / "a", tensors, text); })) &&
           folder.count() == 0;
  };
  CHECK(refused({io::stored_as("a", {4}, x), io::stored_as("a", {4}, x)}));
  CHECK(refused({{"a", "F99", {4}, x}}));
  CHECK(refused({{"a", "F4", {3}, x}}));
  CHECK(refused({io::stored_as("__metadata__", {4}, x)}));
  CHECK(refused({io::stored_as("\xff", {4}, x)}));
  CHECK(refused({io::stored_as("a", {-1}, x)}));
  CHECK(refused({io::stored_as("a", {index_t(1) << 62, 4}, x)}));
  CHECK(refused({}, {{"k", "\xed\xa0\x80"}}));
}

TEST_CASE("safetensors: the Python package reads what is written, and the other way round") {
  if (std::system("python3 -c 'import safetensors, numpy' > /dev/null 2>&1") != 0) {
    MESSAGE("skipped: no Python with safetensors and numpy");
    return;
  }
  scratch_folder const folder;
  std::vector<float> values(6 * 5);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i) * 0.5f - 3;
  std::int32_t const counts[2] = {7, -9};
  io::write_safetensors(
      folder / "a.safetensors",
      {io::stored_as("w", {6, 5}, values.data()), io::stored_as("n", {2}, counts), io::stored_as("s", {}, counts)},
      {{"made by", "tenon"}});
  folder.write("check.py", R"(
import sys, numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
t = load_file(sys.argv[1])
assert sorted(t) == ["n", "s", "w"], t.keys()
assert np.array_equal(t["w"], (np.arange(30, dtype=np.float32) * 0.5 - 3).reshape(6, 5))
assert t["n"].tolist() == [7, -9] and t["s"].shape == () and t["s"] == 7
with safe_open(sys.argv[1], "np") as f: assert f.metadata() == {"made by": "tenon"}
save_file({"x": np.arange(12, dtype=np.float64).reshape(3, 4), "y": np.array([True, False]), "z": np.zeros((0, 2), np.float16)},
          sys.argv[2], {"k": "v"})
)");
  std::string const run = "python3 '" + (folder / "check.py").string() + "' '" + (folder / "a.safetensors").string() +
                          "' '" + (folder / "b.safetensors").string() + "'";
  REQUIRE(std::system(run.c_str()) == 0);
  io::safetensors_file const f(folder / "b.safetensors");
  CHECK(f.view_of<double>("x", {3, 4})(2, 1) == 9.0);
  CHECK(f.values_of<bool>("y", {2})[0]);
  CHECK(f.values_of<tenon::fp16>("z", {0, 2}).empty());
  CHECK(f.metadata().at("k") == "v");
}

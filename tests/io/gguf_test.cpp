// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include <io/gguf_samples.hpp>
#include <io/scratch_folder.hpp>
#include <tenon/io/gguf.hpp>

namespace io = tenon::io;
using tenon::weight_format;

namespace {

/// A copy of these bytes at a multiple of 8, exactly as many.
struct in_memory {
  explicit in_memory(std::string const& content)
      : size(content.size()), words(new std::uint64_t[content.size() / 8 + 1]) {
    content.copy(reinterpret_cast<char*>(words.get()), size);
  }
  std::span<std::byte const> bytes() const { return std::as_bytes(std::span(words.get(), size / 8 + 1)).first(size); }
  std::size_t size;
  std::unique_ptr<std::uint64_t[]> words;
};

std::string verdict(std::string const& content) {
  in_memory const file(content);
  return message_of([&] { io::gguf_file f(file.bytes(), "x.gguf"); });
}
bool says(std::string const& message, std::string const& part) {
  CAPTURE(message);
  CHECK(is_one_sentence(message));
  CHECK(message.rfind("x.gguf: ", 0) == 0);
  return message.find(part) != std::string::npos;
}
/// One tensor and no keys.
gguf_bytes one_tensor(std::initializer_list<std::uint64_t> sizes, std::uint32_t type, std::uint64_t offset = 0) {
  return gguf_bytes().head(1, 0).tensor("t", sizes, type, offset).pad();
}

}  // namespace

TEST_CASE("gguf: values of every kind, as the type that is asked for") {
  in_memory const content(sample_gguf());
  io::gguf_file const f(content.bytes(), "x.gguf");
  CHECK(f.metadata().size() == 17);
  CHECK(f.get<std::string_view>("general.architecture") == "llama");
  CHECK(f.get<int>("a.u8") == 200);
  CHECK(f.get<int>("a.i8") == -2);
  CHECK(f.get<int>("a.u16") == 60000);
  CHECK(f.get<long>("a.i16") == -3);
  CHECK(f.get<std::uint32_t>("a.u32") == 4000000000u);
  CHECK(f.get<float>("a.i32") == -4.0f);
  CHECK(f.get<float>("a.f32") == 1.5f);
  CHECK(f.get<bool>("a.bool"));
  CHECK(f.get<std::uint64_t>("a.u64") == 1ull << 63);
  CHECK(f.get<std::int64_t>("a.i64") == -5);
  CHECK(f.get<double>("a.f64") == 0.1);
  CHECK(f.find_value<int>("a.u8") == 200);
  CHECK_FALSE(f.find_value<int>("a.none").has_value());

  auto const tokens = f.get<io::gguf_strings>("b.tokens");
  CHECK(std::vector<std::string>(tokens.begin(), tokens.end()) ==
        std::vector<std::string>{"<s>", "", "\xe2\x96\x81the"});
  auto const scores = f.get<io::packed_values<float>>("b.scores");
  CHECK(scores.to_vector() == std::vector<float>{0, -1, -2.5f});
  CHECK(f.get<io::packed_values<bool>>("b.flags")[1]);
  CHECK(f.get<io::packed_values<std::int32_t>>("b.none").to_vector().empty());
  io::gguf_value const& nested = f.metadata().at("b.nested");
  CHECK(nested.count == 2);
  CHECK(nested.element == io::gguf_kind::array);

  CHECK(message_of([&] { f.get<int>("a.none"); }) ==
        "x.gguf: has no key 'a.none', and a whole number from -2147483648 to 2147483647 is expected there. Fix: use a "
        "file of the kind of model that is loaded, or convert it anew.");
  CHECK(says(message_of([&] { f.get<int>("a.u32"); }), "key 'a.u32' is U32, but a whole number from"));
  CHECK(says(message_of([&] { f.get<std::uint8_t>("a.i8"); }), "a whole number from 0 to 255 is expected"));
  CHECK(says(message_of([&] { f.get<int>("a.f32"); }), "is F32, but a whole number"));
  CHECK(says(message_of([&] { f.get<bool>("a.u8"); }), "is U8, but a BOOL"));
  CHECK(says(message_of([&] { f.get<float>("a.bool"); }), "is BOOL, but a number"));
  CHECK(says(message_of([&] { f.get<std::string_view>("b.tokens"); }), "is an array of 3 text, but text"));
  CHECK(
      says(message_of([&] { f.find_value<io::gguf_strings>("b.scores"); }), "an array of 3 F32, but an array of text"));
  CHECK(says(message_of([&] { f.get<io::packed_values<double>>("b.scores"); }), "but an array of F64"));
}

TEST_CASE("gguf: tensors are views of the file") {
  in_memory const content(sample_gguf());
  io::gguf_file const f(content.bytes(), "x.gguf");
  CHECK(f.names() ==
        std::vector<std::string_view>{"cube.weight", "new.weight", "norm.weight", "odd.weight", "w.weight"});
  auto const w = f.find("w.weight");
  REQUIRE(w);
  CHECK(w->format == weight_format::q8_0);
  CHECK(w->rows == 3);
  CHECK(w->cols == 64);
  auto const end = content.bytes().data() + content.size;
  CHECK(w->data == end - 376 + 32);
  CHECK(w->row(2) == w->data + 2 * 68);
  CHECK(f.find("cube.weight")->rows == 6);
  CHECK(f.find("cube.weight")->data + 24 == end);
  CHECK(f.tensors().at("cube.weight").shape == std::vector<tenon::index_t>{2, 3, 2});
  CHECK_FALSE(f.find("none").has_value());
  CHECK(io::weights_at(f, "norm.weight", 1, 4).data == end - 376);
  CHECK(says(message_of([&] { io::weights_at(f, "norm.weight", 2, 2); }), "has the shape [1, 4], but [2, 2]"));
  CHECK(says(message_of([&] { io::weights_at(f, "none", 2, 2); }), "has no tensor 'none' of shape [2, 2]"));
  // What tenon does not compute with is named when it is asked for, and no earlier.
  CHECK(says(message_of([&] { f.find("odd.weight"); }), "tensor 'odd.weight' is stored as IQ2_XXS"));
  CHECK(says(message_of([&] { f.find("new.weight"); }), "stored as the unknown type 99"));
}

TEST_CASE("gguf: what is not one") {
  CHECK(says(verdict(""), "is empty"));
  CHECK(says(verdict("GG"), "is not a GGUF file"));
  CHECK(says(verdict("PK\3\4 and more of the same"), "is not a GGUF file"));
  CHECK(says(verdict(gguf_bytes().head(0, 0, 0x03000000).out), "is a big-endian GGUF file"));
  CHECK(says(verdict(gguf_bytes().head(0, 0, 1).out), "has the GGUF version 1"));
  CHECK(says(verdict(gguf_bytes().head(0, 0, 4).out), "has the GGUF version 4"));
  CHECK(verdict(gguf_bytes().head(0, 0, 2).out).empty());
  CHECK(verdict(gguf_bytes().head(0, 0).out).empty());
}

TEST_CASE("gguf: a file cut anywhere is refused") {
  std::string const whole = sample_gguf();
  REQUIRE(verdict(whole).empty());
  for (std::size_t n = 1; n < whole.size(); ++n) {
    std::string const message = verdict(whole.substr(0, n));
    CAPTURE(n);
    CAPTURE(message);
    CHECK(is_one_sentence(message));
  }
  CHECK(says(verdict(whole.substr(0, whole.size() - 1)), "is truncated: tensor 'cube.weight' has 24 bytes at 352"));
  CHECK(says(verdict(whole.substr(0, 300)), "is truncated in key 12"));
}

TEST_CASE("gguf: counts that the file cannot hold") {
  auto const huge = std::uint64_t(-1);
  CHECK(says(verdict(gguf_bytes().head(huge, 0).data(100).out), "cannot have the 18446744073709551615 tensors"));
  CHECK(says(verdict(gguf_bytes().head(0, huge).data(100).out), "and 18446744073709551615 keys"));
  CHECK(says(verdict(gguf_bytes().head(65537, 0).data(70000 * 25).out), "65536 of each are allowed"));
  for (std::uint32_t const element : {0u, 4u, 7u, 8u, 9u, 12u})
    CHECK(says(verdict(gguf_bytes().head(0, 1).key("k", 9).u32(element).u64(huge / 8 + 2).data(64).out),
               "key 'k' cannot have 2305843009213693953 elements"));
  CHECK(says(verdict(gguf_bytes().head(0, 1).key("k", 8).u64(huge).data(64).out), "is truncated in key 'k'"));
  CHECK(
      says(verdict(gguf_bytes().head(0, 1).u64(huge).data(64).out), "key 0 has a name of 18446744073709551615 bytes"));
  CHECK(says(verdict(one_tensor({huge}, 0).out), "more than 2^63 numbers"));
  CHECK(says(verdict(one_tensor({1ull << 40, 1ull << 40}, 0).out), "more than 2^63 numbers"));
  CHECK(says(verdict(one_tensor({1ull << 62}, 0).out), "more than 2^63 bytes"));
}

TEST_CASE("gguf: metadata that breaks a rule") {
  CHECK(says(verdict(gguf_bytes().head(0, 2).key("k", 4).u32(1).key("k", 4).u32(1).out), "key 'k' is there twice"));
  CHECK(says(verdict(gguf_bytes().head(0, 1).key("", 4).u32(1).data(8).out), "has a name of 0 bytes"));
  CHECK(says(verdict(gguf_bytes().head(0, 1).key("k", 13).u64(1).out), "key 'k' has the unknown type 13"));
  CHECK(says(verdict(gguf_bytes().head(0, 1).key("k", 7).number('\2').out), "key 'k' has 2 where 0 or 1"));
  CHECK(says(verdict(gguf_bytes().head(0, 1).key("k", 9).u32(7).u64(2).number('\1').number('\3').out), "has 3 where"));
  gguf_bytes deep;
  deep.head(0, 1).key("k", 9);
  for (int i = 0; i < 8; ++i) deep.u32(9).u64(1);
  CHECK(says(verdict(deep.u32(4).u64(0).out), "arrays in arrays more than 8 deep"));
  for (std::uint32_t const bad : {0u, 1u, 4u, 24u, 33u})
    CHECK(says(verdict(gguf_bytes().head(0, 1).key("general.alignment", 4).u32(bad).out), "is " + std::to_string(bad)));
  CHECK(says(verdict(gguf_bytes().head(0, 1).key("general.alignment", 10).u64(32).out), "has another type"));
}

TEST_CASE("gguf: tensors that break a rule") {
  CHECK(says(verdict(gguf_bytes().head(1, 0).tensor("t", {}, 0, 0).data(64).out), "has 0 dimensions"));
  CHECK(says(verdict(one_tensor({1, 1, 1, 1, 1}, 0).out), "has 5 dimensions"));
  CHECK(says(verdict(one_tensor({4, 0}, 0).out), "has a dimension of 0"));
  CHECK(
      says(verdict(one_tensor({33, 2}, 8).data(99).out), "rows of 33 numbers, no multiple of the 32 in a block of Q8"));
  CHECK(says(verdict(one_tensor({128}, 12).data(99).out), "no multiple of the 256 in a block of Q4_K"));
  CHECK(says(verdict(one_tensor({4}, 0, 16).data(99).out), "begins at 16, which is no multiple"));
  CHECK(says(verdict(one_tensor({4}, 0, 32).data(40).out), "is truncated: tensor 't' has 16 bytes at 32"));
  CHECK(says(verdict(one_tensor({4}, 0, std::uint64_t(-32)).data(40).out), "is truncated"));
  CHECK(says(verdict(gguf_bytes().head(1, 0).tensor(std::string(65, 'n'), {4}, 0, 0).pad().data(99).out), "65 bytes"));
  auto const two = [](char const* name, std::uint64_t offset) {
    return gguf_bytes().head(2, 0).tensor("a", {16}, 0, 32).tensor(name, {16}, 0, offset).pad().data(200).out;
  };
  CHECK(says(verdict(two("a", 0)), "tensor 'a' is there twice"));
  CHECK(says(verdict(two("b", 0)), "tensor 'a' begins at 32, but the one before ends at 64"));
  CHECK(says(verdict(two("b", 64)), "tensor 'b' begins at 64, but the one before ends at 96"));
  CHECK(verdict(two("b", 96)).empty());
  // The data begin at a multiple of the file's own alignment.
  auto const aligned =
      gguf_bytes().head(1, 1).key("general.alignment", 4).u32(256).tensor("t", {4}, 0, 0).pad(256).data(16).out;
  CHECK(verdict(aligned).empty());
  CHECK(says(verdict(aligned.substr(0, aligned.size() - 1)), "is truncated"));
}

TEST_CASE("gguf: a model in parts") {
  scratch_folder const folder;
  auto const part = [&](int number, int count, std::string const& tensor, int total, int written) {
    gguf_bytes f;
    f.head(1, 3).key("split.no", 2).number(std::uint16_t(number - 1));
    f.key("split.count", 2).number(std::uint16_t(count)).key("split.tensors.count", 5).number(std::int32_t(total));
    f.tensor(tensor, {4}, 0, 0).pad().data(16);
    folder.write(io::gguf_part("m-00001-of-00001.gguf", written, count).string(), f.out);
  };
  auto const open = [&](char const* name) { return message_of([&] { io::gguf_file f(folder / name); }); };
  part(1, 2, "a", 2, 1);
  CHECK(open("m-00001-of-00002.gguf").find("m-00002-of-00002.gguf: cannot read: there is no such file") !=
        std::string::npos);
  part(2, 2, "b", 2, 2);
  io::gguf_file const f(folder / "m-00001-of-00002.gguf");
  CHECK(f.names() == std::vector<std::string_view>{"a", "b"});
  CHECK(f.find("b")->cols == 4);
  CHECK(open("m-00002-of-00002.gguf")
            .find("is part 2 of 2 of a model. Fix: keep the parts together and open the "
                  "first one, '...-00001-of-00002.gguf'.") != std::string::npos);
  part(2, 2, "a", 2, 2);
  CHECK(open("m-00001-of-00002.gguf").find("tensor 'a' is in an earlier part too") != std::string::npos);
  part(1, 2, "b", 2, 2);
  CHECK(open("m-00001-of-00002.gguf").find("is not part 2 of") != std::string::npos);
  part(2, 2, "b", 3, 2);
  part(1, 2, "a", 3, 1);
  CHECK(open("m-00001-of-00002.gguf").find("should have 3 tensors, but have 2") != std::string::npos);
  part(2, 2, "a", 3, 1);
  CHECK(open("m-00001-of-00002.gguf").find("is part 2 of 2 of a model") != std::string::npos);
  folder.write("renamed.gguf", folder.read("m-00001-of-00002.gguf"));
  CHECK(open("renamed.gguf").find("keep the parts together") != std::string::npos);
  CHECK(open("none.gguf").find("there is no such file") != std::string::npos);
}

TEST_CASE("gguf: a real model, when there is one") {
  char const* const folder = std::getenv("TENON_MODELS");
  auto const file = io::path(folder ? folder : TENON_SOURCE_DIR "/build/models") / "gemma-3-270m-q4_k_m.gguf";
  if (!std::filesystem::exists(file)) {
    MESSAGE("no model: " << file.string() << " is missing; tests/fetch_models.py fetches it");
    return;
  }
  io::gguf_file const f(file);
  CHECK(f.tensors().size() == 236);
  CHECK(f.get<io::gguf_strings>("tokenizer.ggml.tokens").size() == 262144);
  CHECK(io::weights_at(f, "token_embd.weight", 262144, 640).format == weight_format::q8_0);
  CHECK(io::weights_at(f, "blk.17.ffn_down.weight", 640, 2048).format == weight_format::q6_k);
}

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <io/scratch_folder.hpp>
#include <tenon/data/text.hpp>

namespace {

std::string text_of(auto const& source, tenon::index_t first, tenon::index_t count) {
  std::vector<std::int32_t> tokens(std::size_t(count), -77);
  source.copy(first, tokens);
  std::string out;
  for (auto t : tokens) out += t < 0 ? '?' : char(t);
  return out;
}

}  // namespace

TEST_CASE("byte_corpus is the bytes of its files with a separator between two") {
  scratch_folder const folder;
  folder.write("a", "abc");
  folder.write("b", "\xff");
  folder.write("c", "0123456789");
  tenon::byte_corpus const corpus({folder / "a", folder / "b", folder / "c"});
  std::string const whole(
      "abc\0\xff\0"
      "0123456789",
      16);
  CHECK(corpus.size() == 16);
  CHECK(corpus.vocabulary() == 256);
  for (tenon::index_t first = 0; first <= 16; ++first)
    for (tenon::index_t n = 0; first + n <= 16; ++n)
      CHECK(text_of(corpus, first, n) == whole.substr(std::size_t(first), std::size_t(n)));
  std::vector<std::int32_t> one(1);
  corpus.copy(4, one);
  CHECK(one[0] == 255);
  CHECK(corpus.name() == (folder / "a").string() + " and 2 more files");
  CHECK(is_one_sentence(message_of([&] { text_of(corpus, 10, 7); })));
  CHECK(is_one_sentence(message_of([&] { text_of(corpus, -1, 1); })));
}

TEST_CASE("byte_corpus names the file that does not fit") {
  scratch_folder const folder;
  folder.write("a", "abc");
  folder.write("empty", "");
  auto const message = [&](std::vector<tenon::io::path> files) {
    return message_of([&] { tenon::byte_corpus c(files); });
  };
  CHECK(message({folder / "a", folder / "empty"}) ==
        (folder / "empty").string() + ": is empty. Fix: give a file with text in it.");
  CHECK(message({folder / "gone"}).find((folder / "gone").string() + ": cannot read: there is no such file") == 0);
  CHECK(message({folder.path}).find("it is a folder") != std::string::npos);
  CHECK(is_one_sentence(message({})));
  tenon::byte_corpus const corpus({folder / "a"});
  CHECK_NOTHROW(tenon::check_length(corpus, 2));
  CHECK(message_of([&] { tenon::check_length(corpus, 3); }) ==
        (folder / "a").string() +
            ": has 3 tokens, but a context of 3 needs at least 4. Fix: more text, or a shorter context.");
}

TEST_CASE("split cuts the end off for validation") {
  scratch_folder const folder;
  folder.write("a", "0123456789");
  tenon::byte_corpus const corpus({folder / "a"});
  auto const parts = tenon::split(corpus, 0.25);
  CHECK(parts.training.size() == 8);
  CHECK(parts.validation.size() == 2);
  CHECK(text_of(parts.training, 0, 8) == "01234567");
  CHECK(text_of(parts.validation, 0, 2) == "89");
  CHECK(text_of(parts.validation, 1, 1) == "9");
  CHECK(is_one_sentence(message_of([&] { text_of(parts.training, 7, 2); })));
  CHECK(tenon::split(corpus, 0).validation.size() == 0);
  CHECK(tenon::split(corpus, 0).training.size() == 10);
  for (double wrong : {1.0, -0.1, 7.0}) CHECK(is_one_sentence(message_of([&] { tenon::split(corpus, wrong); })));
  CHECK(tenon::source_name(parts.training) == corpus.name());
}

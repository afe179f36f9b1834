// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <tenon/io/sha256.hpp>

namespace {

std::string hex_of(std::string const& s) { return tenon::io::sha256_hex(std::as_bytes(std::span(s))); }

struct vector_of_nist {
  std::string message;
  char const* digest;
};

}  // namespace

TEST_CASE("sha256 equals the published vectors") {
  // FIPS 180-4 examples and the NIST CAVP short messages.
  vector_of_nist const vectors[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrst"
       "u",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {"\xd3", "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"},
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (auto const& v : vectors) CHECK(hex_of(v.message) == v.digest);
}

TEST_CASE("sha256 does not depend on how the stream is cut") {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += char(i * 37 % 251);
  for (std::size_t length : {0u, 1u, 55u, 56u, 57u, 63u, 64u, 65u, 119u, 120u, 127u, 128u, 129u, 1000u}) {
    std::string const whole = hex_of(text.substr(0, length));
    for (std::size_t piece : {1u, 3u, 63u, 64u, 65u, 200u}) {
      tenon::io::sha256 h;
      for (std::size_t at = 0; at < length; at += piece) h.update(text.data() + at, std::min(piece, length - at));
      CHECK(h.finish_hex() == whole);
    }
  }
}

TEST_CASE("sha256 of each of some messages is that of each alone") {
  std::vector<std::byte> bytes(100000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i * i >> 5);
  std::vector<std::span<std::byte const>> messages;
  std::vector<std::string> expected;
  CHECK(tenon::io::sha256_hex_of_each(messages).empty());
  for (std::size_t length : {7u, 0u, 64u, 50000u, 63u, 128u, 128u, 65u, 1000u, 12345u, 1u}) {
    messages.push_back(std::span(bytes).subspan(3 * messages.size(), length));
    expected.push_back(tenon::io::sha256_hex(messages.back()));
    CHECK(tenon::io::sha256_hex_of_each(messages) == expected);
  }
}

TEST_CASE("sha256: portable code and the processor's instructions agree") {
#if TENON_SHA_INSTRUCTIONS()
  if (!tenon::io::detail::has_sha_instructions()) {
    MESSAGE("skipped: this processor has no SHA instructions");
    return;
  }
  std::vector<std::uint8_t> data(64 * 33);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = std::uint8_t(i * i >> 3);
  std::uint32_t a[8] = {1, 2, 3, 4, 5, 0xffffffff, 7, 8}, b[8] = {1, 2, 3, 4, 5, 0xffffffff, 7, 8};
  tenon::io::detail::sha256_blocks(a, data.data(), 33);
  tenon::io::detail::sha256_blocks_by_instructions(33, tenon::io::detail::sha256_message{b, data.data()});
  for (int i = 0; i < 8; ++i) CHECK(a[i] == b[i]);
#else
  MESSAGE("skipped: built without SHA instructions");
#endif
}

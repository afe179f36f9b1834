// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <tenon/data/source.hpp>
#include <tenon/io/mapped_file.hpp>

namespace tenon {

/// Text files as one stream of bytes: the vocabulary is 256, and byte 0, which text does not have, stands between two
/// documents. Large files are mapped, so a corpus may be larger than memory.
/// @error file_error for a file that is missing, empty or a folder   @test tests/data/text_test.cpp
class byte_corpus {
 public:
  /// The token between two documents.
  static constexpr std::int32_t document_separator = 0;

  explicit byte_corpus(std::vector<io::path> const& files) {
    if (files.empty()) throw argument_error("tenon::byte_corpus: no text is given. Fix: name at least one file.");
    documents.reserve(files.size());
    for (auto const& file : files) {
      io::mapped_file document(file);
      if (document.size() == 0) throw file_error(file.string(), "is empty. Fix: give a file with text in it.");
      begins.push_back(total + (documents.empty() ? 0 : 1));
      total = begins.back() + index_t(document.size());
      documents.push_back(std::move(document));
    }
  }
  index_t size() const { return total; }
  int vocabulary() const { return 256; }
  /// "a.txt", or "a.txt and 3 more files".
  std::string name() const {
    std::string const first = documents.front().file().string();
    auto const more = documents.size() - 1;
    return more == 0 ? first : first + " and " + std::to_string(more) + (more == 1 ? " more file" : " more files");
  }
  void copy(index_t first, std::span<std::int32_t> out) const {
    detail::check_range(first, out.size(), size());
    auto at = std::size_t(std::upper_bound(begins.begin(), begins.end(), first) - begins.begin()) - 1;
    for (std::size_t done = 0; done < out.size(); ++at) {
      auto const bytes = documents[at].bytes();
      auto const from = std::size_t(first + index_t(done) - begins[at]);
      std::size_t const n = from < bytes.size() ? std::min(bytes.size() - from, out.size() - done) : 0;
      for (std::size_t i = 0; i < n; ++i) out[done + i] = std::int32_t(std::to_integer<std::uint8_t>(bytes[from + i]));
      done += n;
      if (done < out.size()) out[done++] = document_separator;
    }
  }

 private:
  std::vector<io::mapped_file> documents;
  std::vector<index_t> begins;
  index_t total = 0;
};
static_assert(TokenSource<byte_corpus>);

}  // namespace tenon

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include <stdlib.h>

#include <tenon/core/error.hpp>

/// A folder for one test, removed at its end.
struct scratch_folder {
  std::filesystem::path path;
  scratch_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "tenon-test-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~scratch_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  scratch_folder(scratch_folder const&) = delete;
  scratch_folder& operator=(scratch_folder const&) = delete;

  std::filesystem::path operator/(std::string_view name) const { return path / name; }
  void write(std::string_view name, std::string_view content) const {
    std::ofstream(path / name, std::ios::binary).write(content.data(), std::streamsize(content.size()));
  }
  std::string read(std::string_view name) const {
    std::ifstream in(path / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  /// How many names there are in it.
  int count() const {
    return int(std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator()));
  }
};

/// What the tenon::error thrown by f says; empty when none is thrown.
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (tenon::error const& e) {
    return e.what();
  }
  return {};
}
/// One line that names the fix.
inline bool is_one_sentence(std::string const& message) {
  return !message.empty() && message.find('\n') == std::string::npos && message.find("Fix: ") != std::string::npos &&
         message.back() == '.';
}

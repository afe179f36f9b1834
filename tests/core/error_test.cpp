// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include <tenon/core/error.hpp>

using namespace tenon;

TEST_CASE("error: every exception is a tenon::error and a std::runtime_error, with its code and sentence") {
  static_assert(std::is_base_of_v<std::runtime_error, error>);
  static_assert(std::is_base_of_v<error, file_error> && std::is_base_of_v<error, argument_error>);
  static_assert(std::is_nothrow_copy_constructible_v<error>);
  try {
    throw file_error("weights.safetensors", "the header is cut off");
  } catch (error const& e) {
    CHECK(e.code == errc::bad_file);
    CHECK(std::string(e.what()) == "weights.safetensors: the header is cut off");
  }
  try {
    throw argument_error("steps must be positive");
  } catch (std::runtime_error const& e) {
    CHECK(std::string(e.what()) == "steps must be positive");
    CHECK(dynamic_cast<error const&>(e).code == errc::bad_argument);
  }
  CHECK(int(errc::ok) == 0);
}

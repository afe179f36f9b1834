// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What ranks make sure of before they rely on each other.   @test tests/comm/check_test.cpp
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <tenon/comm/communicator.hpp>
#include <tenon/core/error.hpp>

namespace tenon::comm {

namespace detail {
/// The text of rank `root`.
template <Communicator C>
std::string broadcast_text(C& c, std::string text, int root) {
  std::size_t length = text.size();
  c.broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
  text.resize(length);
  c.broadcast(std::as_writable_bytes(std::span(text)), root);
  return text;
}
}  // namespace detail

/// Every rank says what it has for `what` (its policies, its options, its data); they must all have the same.
/// @error error(comm_failed) on every rank, naming the first rank that differs from rank 0 and both values
template <Communicator C>
void check_same(C& c, std::string const& what, std::string const& mine) {
  if (c.size() == 1) return;
  std::string const first = detail::broadcast_text(c, mine, 0);
  std::vector<std::int64_t> differs(std::size_t(c.size()));
  differs[std::size_t(c.rank())] = mine != first;
  c.sum(differs);
  for (int r = 0; r < c.size(); ++r)
    if (differs[std::size_t(r)])
      throw error(errc::comm_failed, "ranks differ in their " + what + ": rank 0 has '" + first + "', rank " +
                                         std::to_string(r) + " has '" + detail::broadcast_text(c, mine, r) +
                                         "'. Fix: start the same program with the same options on every rank.");
}

/// Of sentences that ranks may have, empty where all went well, the one of the first rank that has any; on every rank.
template <Communicator C>
std::string first_sentence(C& c, std::string const& mine) {
  std::vector<std::int64_t> has(std::size_t(c.size()));
  has[std::size_t(c.rank())] = !mine.empty();
  c.sum(has);
  for (int r = 0; r < c.size(); ++r)
    if (has[std::size_t(r)]) return detail::broadcast_text(c, mine, r);
  return {};
}

/// Every rank does its part; what goes wrong on any is thrown on all, as an `Error` with its words.
template <class Error, class C, class F>
void agree(C& c, F&& part) {
  std::string fault;
  try {
    part();
  } catch (std::exception const& e) {
    fault = e.what();
  }
  fault = first_sentence(c, fault);
  if (!fault.empty()) throw Error(fault);
}

/// Seconds to wait for all ranks at the start: TENON_START_TIMEOUT of the environment, or 60.
inline double start_timeout() {
  char const* const text = std::getenv("TENON_START_TIMEOUT");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  if (!text) return 60;
  std::string_view const given = text;
  int seconds = 0;
  auto const [end, code] = std::from_chars(given.data(), given.data() + given.size(), seconds);
  if (code != std::errc() || end != given.data() + given.size() || seconds < 1)
    throw argument_error("TENON_START_TIMEOUT is '" + std::string(given) +
                         "'. Fix: a whole number of seconds, from 1.");
  return seconds;
}

/// Returns when all ranks have called it.
/// @error error(comm_failed) naming the ranks that have not come after `seconds`
template <Communicator C>
void wait_for_all(C& c, double seconds = start_timeout()) {
  if constexpr (requires { c.missing_after(seconds); }) {
    std::string names;
    for (int r : c.missing_after(seconds)) names += (names.empty() ? "" : ", ") + std::to_string(r);
    if (!names.empty())
      throw error(errc::comm_failed,
                  "of " + std::to_string(c.size()) + " ranks these have not come in " + std::to_string(int(seconds)) +
                      " s: " + names +
                      ". Fix: see why they did not start, or set TENON_START_TIMEOUT to more seconds.");
  }
}

}  // namespace tenon::comm

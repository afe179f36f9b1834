// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file JSON as values of templates: messages and tools as clients send them.   @test tests/text/jinja_test.cpp
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/core/error.hpp>
#include <tenon/text/jinja_value.hpp>

namespace tenon::text::jinja {
namespace detail {

inline value from_json(nlohmann::ordered_json const& j) {
  if (j.is_null()) return nullptr;
  if (j.is_boolean()) return j.get<bool>();
  if (j.is_number_float()) return j.get<double>();
  if (j.is_number()) return j.get<std::int64_t>();
  if (j.is_string()) return j.get<std::string>();
  if (j.is_array()) {
    list items;
    for (auto const& i : j) items.push_back(from_json(i));
    return items;
  }
  dict members;
  for (auto const& [key, m] : j.items()) members.emplace_back(key, from_json(m));
  return members;
}

}  // namespace detail

/// @error argument_error for what is no JSON, or nested more deeply than templates allow
inline value parse_json(std::string_view text) {
  int depth = 0;
  auto const watch = [&](int now, nlohmann::ordered_json::parse_event_t, nlohmann::ordered_json&) {
    depth = std::max(depth, now);
    return depth < deepest_value;
  };
  auto const j = nlohmann::ordered_json::parse(text, watch, false);
  if (j.is_discarded() || depth >= deepest_value)
    throw argument_error("tenon::text::jinja: '" + std::string(text.substr(0, 60)) +
                         "' is no JSON, or too deeply nested. Fix: give a JSON value.");
  return detail::from_json(j);
}

}  // namespace tenon::text::jinja

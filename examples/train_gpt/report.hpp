// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file What a run reads and prints, whatever its types.
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <tenon/parallel/receipt.hpp>

#include "arguments.hpp"

namespace train_gpt {

/// Files as they are; of folders every text file below, in the order of their names.
std::vector<std::string> text_files(std::vector<std::string> const& given);

/// What --flip asks for. @error argument_error
std::optional<tenon::receipt::flip> flip_of(std::string const& text);

void print_sample(std::string const& text, char const* when);

/// The last words of a run, of one rank: as JSON if asked to, else for people. Returns what the program returns.
int finish(arguments const& a, nlohmann::ordered_json const& summary, bool prints = true);

}  // namespace train_gpt

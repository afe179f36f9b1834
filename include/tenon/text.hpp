// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Text: tokenizers from GGUF and tokenizer.json, chat templates.
#include <tenon/text/added_tokens.hpp>
#include <tenon/text/bpe_training.hpp>
#include <tenon/text/byte_alphabet.hpp>
#include <tenon/text/category_tables.hpp>
#include <tenon/text/chat.hpp>
#include <tenon/text/cut_patterns.hpp>
#include <tenon/text/gguf_vocabulary.hpp>
#include <tenon/text/hash_index.hpp>
#include <tenon/text/jinja.hpp>
#include <tenon/text/jinja_filters.hpp>
#include <tenon/text/jinja_json.hpp>
#include <tenon/text/jinja_parser.hpp>
#include <tenon/text/jinja_value.hpp>
#include <tenon/text/normalization_tables.hpp>
#include <tenon/text/normalize.hpp>
#include <tenon/text/normalizer.hpp>
#include <tenon/text/pattern.hpp>
#include <tenon/text/segment.hpp>
#include <tenon/text/tokenizer.hpp>
#include <tenon/text/tokenizer_json.hpp>
#include <tenon/text/unicode.hpp>
#include <tenon/text/utf8.hpp>
#include <tenon/text/vocabulary.hpp>

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Files: mapped, safetensors, GGUF, written atomically; SHA-256.
#include <tenon/io/atomic_file.hpp>
#include <tenon/io/file_lock.hpp>
#include <tenon/io/gguf.hpp>
#include <tenon/io/gguf_header.hpp>
#include <tenon/io/gguf_writer.hpp>
#include <tenon/io/hf_folder.hpp>
#include <tenon/io/mapped_file.hpp>
#include <tenon/io/safetensors.hpp>
#include <tenon/io/safetensors_header.hpp>
#include <tenon/io/sha256.hpp>
#include <tenon/io/system.hpp>
#include <tenon/io/weight_source.hpp>

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file Everything needed to run a model.
#include <tenon/infer/beam_search.hpp>
#include <tenon/infer/bind.hpp>
#include <tenon/infer/draft_model.hpp>
#include <tenon/infer/embedder.hpp>
#include <tenon/infer/engine.hpp>
#include <tenon/infer/host_ops.hpp>
#include <tenon/infer/kv_storage.hpp>
#include <tenon/infer/model_file.hpp>
#include <tenon/infer/page_pool.hpp>
#include <tenon/infer/page_tables.hpp>
#include <tenon/infer/pass.hpp>
#include <tenon/infer/prefix_cache.hpp>
#include <tenon/infer/runner.hpp>
#include <tenon/infer/scheduler.hpp>
#include <tenon/infer/seen_tokens.hpp>
#include <tenon/infer/speculation.hpp>
#include <tenon/infer/stop.hpp>

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The engine of the examples, for a model of any kind, and the embedder. What takes time to compile is in engine.cpp
/// and kernels.cpp, once.
#include <tenon/infer/embedder.hpp>
#include <tenon/infer/engine.hpp>

#include "kernels.hpp"

namespace tenon {

using any_engine = engine<models::any>;

extern template infer::bound_model infer::bind_model<models::any, any_engine::arithmetic, any_engine::kv_policy,
                                                     comm::self>(exec::host_context&, infer::model_file const&,
                                                                 nn::weight_source&, engine_options&,
                                                                 comm::mesh<comm::self>*);
extern template class embedder<>;

}  // namespace tenon

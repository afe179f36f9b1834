// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @file The engine of the examples, for a model of any kind, and the embedder. What takes time to compile is in engine.cpp, once.
#include <tenon/infer/embedder.hpp>
#include <tenon/infer/engine.hpp>

namespace tenon {

using any_engine = engine<models::any>;

extern template infer::bound_model infer::bind_model<models::any, any_engine::arithmetic, any_engine::kv_policy,
                                                     comm::self>(exec::host_context&, infer::model_file const&,
                                                                 nn::weight_source&, engine_options&,
                                                                 comm::mesh<comm::self>*);
extern template void ops::run_kernel<ops::sample_t>(exec::host_context&, ops::sample_args const&);
extern template void ops::run_kernel<ops::table_rows_t>(exec::host_context&, ops::table_rows_args const&);
extern template class embedder<>;

}  // namespace tenon

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine.hpp"

namespace tenon {

template infer::bound_model infer::bind_model<models::any, any_engine::arithmetic, any_engine::kv_policy, comm::self>(
    exec::host_context&, infer::model_file const&, nn::weight_source&, engine_options&, comm::mesh<comm::self>*);
template void ops::run_kernel<ops::sample_t>(exec::host_context&, ops::sample_args const&);
template void ops::run_kernel<ops::table_rows_t>(exec::host_context&, ops::table_rows_args const&);
template class embedder<>;

}  // namespace tenon

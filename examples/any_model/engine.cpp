// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine.hpp"

namespace tenon {

template infer::bound_model infer::bind_model<models::any, any_engine::arithmetic, any_engine::kv_policy, comm::self>(
    exec::host_context&, infer::model_file const&, nn::weight_source&, engine_options&, comm::mesh<comm::self>*);
template class embedder<>;

}  // namespace tenon

// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

int train_gpt::run_bf16_mixed(arguments const& a) { return run<tenon::precision::bf16_mixed>(a); }

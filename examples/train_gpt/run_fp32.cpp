// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

int train_gpt::run_fp32(arguments const& a) { return run<tenon::precision::fp32>(a); }

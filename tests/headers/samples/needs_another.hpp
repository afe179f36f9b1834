// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
inline std::vector<int> forgot_to_include_vector() { return {}; }

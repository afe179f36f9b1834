// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/core/config.hpp>
int main() {}

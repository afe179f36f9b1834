// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#ifndef HINT
#  define HINT 3
#endif

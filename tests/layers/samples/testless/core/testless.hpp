// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
/// @test tests/core/testless_test.cpp

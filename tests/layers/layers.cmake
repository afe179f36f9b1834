# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set(check ${CMAKE_COMMAND} -DCOMPONENTS=${PROJECT_SOURCE_DIR}/cmake/components.cmake
  -P ${CMAKE_CURRENT_LIST_DIR}/check.cmake)
add_test(NAME layers COMMAND ${check} ${PROJECT_SOURCE_DIR}/include/tenon)
set_tests_properties(layers PROPERTIES LABELS unit TIMEOUT 60)

# The check itself is checked: each sample breaks one rule.
set(sample_upward "core/upward.hpp:3 includes ops/gemm.hpp")
set(sample_sideways "nn/sideways.hpp:3 includes optim/adamw.hpp")
set(sample_umbrella "ops/umbrella.hpp:3 includes an umbrella")
set(sample_quoted "core/quoted.hpp:3 includes in quotes")
set(sample_unguarded "core/unguarded.hpp has no #pragma once")
set(sample_unlicensed "core/unlicensed.hpp does not begin with the SPDX line")
set(sample_namespace "core/namespace.hpp:4 has using namespace")
set(sample_stranger "strange/stranger.hpp is in a folder that cmake/components.cmake does not list")
set(sample_roofless "tenon/core.hpp, the umbrella of core/roofless.hpp, is not there")
set(sample_macro "core/macro.hpp:4 defines the macro HINT")
set(sample_testless "core/testless.hpp:3 names a test that is not there, tests/core/testless_test.cpp")
foreach(sample upward sideways umbrella quoted unguarded unlicensed namespace stranger roofless macro testless)
  add_test(NAME layers.catches.${sample} COMMAND ${check} ${CMAKE_CURRENT_LIST_DIR}/samples/${sample})
  set_tests_properties(layers.catches.${sample} PROPERTIES LABELS unit TIMEOUT 60
    PASS_REGULAR_EXPRESSION "${sample_${sample}}")
endforeach()

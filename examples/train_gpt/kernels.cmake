# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# The kernels that trainers call, compiled once, for examples, benchmarks and the tests of whole models.
add_library(train_gpt_kernels OBJECT ${CMAKE_CURRENT_LIST_DIR}/kernels.cpp)
target_include_directories(train_gpt_kernels INTERFACE ${CMAKE_CURRENT_LIST_DIR})
target_link_libraries(train_gpt_kernels PRIVATE tenon_own_build tenon::train)

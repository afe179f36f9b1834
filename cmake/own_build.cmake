# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# How our own tests, examples and benchmarks are compiled. None of it reaches a user of tenon::tenon.
set(TENON_ARCH native CACHE STRING "Instruction set of our own programs: native, x86-64-v3, x86-64-v4 or baseline")
set_property(CACHE TENON_ARCH PROPERTY STRINGS native x86-64-v3 x86-64-v4 baseline)
option(TENON_SCALAR "Build our own programs for portable scalar code (what contract I is checked against)" OFF)
option(TENON_WERROR "Warnings are errors in our own programs" OFF)
set(TENON_SANITIZE "" CACHE STRING "Sanitizers for our own programs, as -fsanitize takes them")

set(tenon_arch_flags "")
if(TENON_ARCH STREQUAL "native" OR TENON_ARCH MATCHES "^x86-64-v[34]$")
  set(tenon_arch_flags -march=${TENON_ARCH})
elseif(NOT TENON_ARCH STREQUAL "baseline")
  message(FATAL_ERROR "TENON_ARCH is '${TENON_ARCH}'. Fix: native, x86-64-v3, x86-64-v4 or baseline.")
endif()
if(TENON_SCALAR)
  set(tenon_arch_flags "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(tenon_arch_flags -mfma)  # std::fma as an instruction; without it libm computes the same bits, slower
  endif()
  list(APPEND tenon_arch_flags -DTENON_SCALAR)
endif()
set(TENON_WARNING_FLAGS -Wall -Wextra)

add_library(tenon_own_build INTERFACE)
target_compile_options(tenon_own_build INTERFACE ${tenon_arch_flags} ${TENON_WARNING_FLAGS}
  $<$<BOOL:${TENON_WERROR}>:-Werror>)
if(TENON_SANITIZE)
  # What is left out costs three quarters of the build time (a check at every pointer of every inlined SIMD operation)
  # and sees nothing that the address sanitizer does not. g++ 12 warns of its own intrinsics headers here.
  target_compile_options(tenon_own_build INTERFACE -fsanitize=${TENON_SANITIZE} -fno-sanitize-recover=all
    -fno-sanitize=null,alignment,object-size,vptr,pointer-overflow -fno-omit-frame-pointer -g1
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(tenon_own_build INTERFACE -fsanitize=${TENON_SANITIZE})
endif()
# The flags of one compiler call outside a target: header checks and negative-compile tests.
set(TENON_COMPILE_FLAGS -std=c++20 -pthread -ffp-contract=off ${tenon_arch_flags} ${TENON_WARNING_FLAGS}
  -I${PROJECT_SOURCE_DIR}/include)

# Sets `out` to the target of a file's line `// links: target`, and to FALSE when there is no such target here.
function(tenon_links out file)
  file(STRINGS ${file} links LIMIT_INPUT 2000 REGEX "^// links: ")
  string(REGEX REPLACE "^// links: +" "" links "${links}")
  if(links AND NOT TARGET ${links})
    set(links FALSE)
  endif()
  set(${out} "${links}" PARENT_SCOPE)
endfunction()

find_program(TENON_CCACHE ccache)
if(TENON_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${TENON_CCACHE})
endif()
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

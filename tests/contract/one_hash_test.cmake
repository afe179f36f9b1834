# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 1800 LABELS contract
#
# One program, several compilers, optimisation levels, instruction sets, contraction of a*b+c allowed and not: one hash.
cmake_minimum_required(VERSION 3.25)
set(work ${TENON_BINARY_DIR}/tests/one_hash)
file(MAKE_DIRECTORY ${work})
find_program(clang NAMES clang++ clang++-18 clang++-16 clang++-14 NO_CACHE)

# compiler | flags
set(builds
  "${CXX}|-O1 -march=native -ffp-contract=off"
  "${CXX}|-O3 -march=native -ffp-contract=fast"
  "${CXX}|-O2 -DTENON_SCALAR -ffp-contract=fast")
cmake_host_system_information(RESULT CMAKE_HOST_SYSTEM_PROCESSOR QUERY OS_PLATFORM)  # not set in scripts
if(CMAKE_HOST_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND builds
    "${CXX}|-O3 -march=x86-64-v3 -ffp-contract=fast"
    "${CXX}|-O3 -DTENON_SCALAR -mfma -ffp-contract=fast")
endif()
if(clang)
  list(APPEND builds
    "${clang}|-O3 -march=native -ffp-contract=fast"
    "${clang}|-O2 -DTENON_SCALAR -ffp-contract=fast")
  if(CMAKE_HOST_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND builds "${clang}|-O1 -march=x86-64-v3 -ffp-contract=fast")
  endif()
endif()

set(first "")
set(different FALSE)
foreach(build IN LISTS builds)
  string(REPLACE "|" ";" build "${build}")
  list(GET build 0 compiler)
  list(GET build 1 words)
  separate_arguments(flags UNIX_COMMAND "${words}")
  execute_process(COMMAND ${compiler} -std=c++20 -pthread ${flags} -I${TENON_SOURCE_DIR}/include
    ${CMAKE_CURRENT_LIST_DIR}/one_hash.cpp -o ${work}/one_hash RESULT_VARIABLE result ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(NOTICE "${output}")
    message(FATAL_ERROR "${compiler} ${words}: does not compile")
  endif()
  execute_process(COMMAND ${work}/one_hash RESULT_VARIABLE result OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE)
  message(NOTICE "${output}  ${compiler} ${words}")
  string(REGEX MATCH "^[0-9a-f]+" hash "${output}")
  if(NOT first)
    set(first "${hash}")
  endif()
  if(NOT result EQUAL 0 OR NOT hash STREQUAL first)
    set(different TRUE)
  endif()
endforeach()
if(different)
  message(FATAL_ERROR "the builds above do not agree")
endif()

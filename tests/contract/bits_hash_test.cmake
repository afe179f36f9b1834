# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 1800 LABELS contract
#
# bits_hash.cpp by several compilers, levels and instruction sets, contraction of a*b+c allowed and not: equal lines.
# Alone: cmake -DCXX=g++ -P tests/contract/bits_hash_test.cmake
cmake_minimum_required(VERSION 3.25)
if(NOT TENON_SOURCE_DIR)
  cmake_path(SET TENON_SOURCE_DIR NORMALIZE ${CMAKE_CURRENT_LIST_DIR}/../..)
endif()
if(NOT TENON_BINARY_DIR)
  set(TENON_BINARY_DIR ${TENON_SOURCE_DIR}/build)
endif()
if(NOT CXX)
  set(CXX c++)
endif()
set(work ${TENON_BINARY_DIR}/tests/bits_hash)
file(MAKE_DIRECTORY ${work})
find_program(other NAMES clang++ clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14 NO_CACHE)
if(NOT other)
  set(other ${CXX})
endif()

# compiler|flags, and |emulator where one is needed; the first is what the others are held against.
set(builds
  "${CXX}|-O2 -march=native -ffp-contract=off"
  "${CXX}|-O1 -DTENON_SCALAR -ffp-contract=fast"
  "${other}|-O3 -march=native -ffp-contract=fast")
cmake_host_system_information(RESULT machine QUERY OS_PLATFORM)  # scripts have no CMAKE_HOST_SYSTEM_PROCESSOR
if(machine MATCHES "^(x86_64|AMD64)$")
  list(APPEND builds "${CXX}|-O3 -mavx2 -mfma -mf16c -ffp-contract=fast")
endif()
# With TENON_WIDE=1 in the environment: more of the same, and NEON under an emulator where both are installed (Debian:
# g++-aarch64-linux-gnu, qemu-user).
if(DEFINED ENV{TENON_WIDE})
  if(machine MATCHES "^(x86_64|AMD64)$")
    list(APPEND builds
      "${other}|-O2 -mavx2 -mfma -mf16c -ffp-contract=off"
      "${other}|-O3 -DTENON_SCALAR -mfma -ffp-contract=fast")
  endif()
  find_program(neon aarch64-linux-gnu-g++ NO_CACHE)
  find_program(emulator NAMES qemu-aarch64 qemu-aarch64-static NO_CACHE)
  if(neon AND emulator)
    list(APPEND builds "${neon}|-O2 -static -ffp-contract=fast|${emulator}")
  else()
    message(STATUS "NEON is left out: aarch64-linux-gnu-g++ or qemu-aarch64 was not found")
  endif()
endif()

set(failed FALSE)
set(wanted "")
foreach(build IN LISTS builds)
  string(REPLACE "|" ";" parts "${build}")
  list(POP_FRONT parts compiler words)  # what is left is the emulator
  separate_arguments(flags UNIX_COMMAND "${words}")
  execute_process(COMMAND ${compiler} -std=c++20 -pthread ${flags} -I${TENON_SOURCE_DIR}/include
    ${CMAKE_CURRENT_LIST_DIR}/bits_hash.cpp -o ${work}/bits_hash RESULT_VARIABLE result ERROR_VARIABLE messages)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${compiler} ${words}: does not build\n${messages}")
  endif()
  execute_process(COMMAND ${parts} ${work}/bits_hash RESULT_VARIABLE result OUTPUT_VARIABLE lines)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${compiler} ${words}: the program ends with ${result}")
  endif()
  string(REGEX MATCH "everything +[0-9a-f]+" total "${lines}")
  message(STATUS "${total}  ${compiler} ${words}")
  string(REGEX REPLACE "\n" ";" lines "${lines}")
  if(NOT wanted)
    set(wanted "${lines}")
    set(first "${build}")
    continue()
  endif()
  foreach(line want IN ZIP_LISTS lines wanted)
    if(NOT line STREQUAL want)
      set(failed TRUE)
      message(NOTICE "  not the same bits: ${line}\n  as by ${first}: ${want}")
    endif()
  endforeach()
endforeach()
if(failed)
  message(FATAL_ERROR "contract I is broken: the lines above depend on the compiler, its flags or the instruction set")
endif()

# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# What cases with trainers include, precompiled by each of COMPILERS with FLAGS: INTO/<its number>/tenon.hpp, to be
# included first. To read all of it takes longer than to compile what the other cases include.
cmake_minimum_required(VERSION 3.25)
separate_arguments(COMPILERS UNIX_COMMAND "${COMPILERS}")
separate_arguments(FLAGS UNIX_COMMAND "${FLAGS}")
file(GLOB cases ${CMAKE_CURRENT_LIST_DIR}/*/*.cpp)
set(includes "")
foreach(case IN LISTS cases)
  file(STRINGS ${case} lines REGEX "^#include <tenon/")
  if(lines MATCHES "<tenon/train/")
    list(APPEND includes ${lines})
  endif()
endforeach()
list(REMOVE_DUPLICATES includes)
list(JOIN includes "\n" text)
set(number 0)
foreach(compiler IN LISTS COMPILERS)
  set(header ${INTO}/${number}/tenon.hpp)
  file(WRITE ${header} "#pragma once\n${text}\n")
  execute_process(COMMAND ${compiler} ${FLAGS} -x c++-header ${header} -o ${header}.gch COMMAND_ERROR_IS_FATAL ANY)
  math(EXPR number "${number} + 1")
endforeach()

# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Compiles each header that matches ROOT/tenon/GLOB alone, included twice, with COMPILER and FLAGS. nvcc, which takes
# seconds per file, gets one file with all of them: that each is complete alone is shown by the other compilers.
cmake_minimum_required(VERSION 3.25)
if(NOT DEFINED PREFIX)
  set(PREFIX tenon/)
endif()
file(GLOB_RECURSE headers RELATIVE ${ROOT} ${ROOT}/${PREFIX}${GLOB})
list(SORT headers)
file(MAKE_DIRECTORY ${WORK})
set(bad 0)
set(count 0)

if(COMPILER MATCHES "nvcc[^/]*$")
  set(source ${WORK}/all.cu)
  set(text "")
  foreach(twice RANGE 1)
    foreach(header IN LISTS headers)
      string(APPEND text "#include <${header}>\n")
    endforeach()
  endforeach()
  file(WRITE ${source} "${text}")
  execute_process(COMMAND ${COMPILER} -std=c++20 -x cu -arch=sm_80 -c -ccbin ${HOST} -I${ROOT}
    -Xcompiler=-Wall,-Wextra,-ffp-contract=off -Werror all-warnings -o ${WORK}/all.o ${source}
    RESULT_VARIABLE result ERROR_VARIABLE output OUTPUT_VARIABLE output)
  if(NOT result EQUAL 0)
    message(NOTICE "${output}")
    message(FATAL_ERROR "tenon/${GLOB} does not compile with ${COMPILER}")
  endif()
  return()
endif()

foreach(header IN LISTS headers)
  string(REPLACE "/" "." name ${header})
  set(source ${WORK}/${name}.cpp)
  file(WRITE ${source} "#include <${header}>\n#include <${header}>\n")
  execute_process(COMMAND ${COMPILER} ${FLAGS} -Werror -I${ROOT} -fsyntax-only ${source}
    RESULT_VARIABLE result ERROR_VARIABLE output OUTPUT_VARIABLE output)
  math(EXPR count "${count} + 1")
  if(NOT result EQUAL 0)
    math(EXPR bad "${bad} + 1")
    message(NOTICE "--- ${header}\n${output}")
  endif()
endforeach()
if(bad GREATER 0)
  message(FATAL_ERROR "${bad} of ${count} headers do not compile alone and twice with ${COMPILER}")
endif()

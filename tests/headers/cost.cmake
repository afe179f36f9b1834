# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Prints the compiler's peak memory and processor time for each header of FOLDERS; more than LIMIT_MB fails.
cmake_minimum_required(VERSION 3.25)
string(REPLACE "," ";" FOLDERS "${FOLDERS}")
file(MAKE_DIRECTORY ${WORK})
set(over "")
foreach(folder IN LISTS FOLDERS)
  file(GLOB_RECURSE headers RELATIVE ${ROOT} ${ROOT}/tenon/${folder}/*.hpp)
  foreach(header IN LISTS headers)
    string(REPLACE "/" "." name ${header})
    file(WRITE ${WORK}/${name}.cpp "#include <${header}>\n")
    execute_process(COMMAND ${MEASURE} --limit-mb ${LIMIT_MB} ${COMPILER} ${FLAGS} -O3 -c ${WORK}/${name}.cpp
      -o ${WORK}/${name}.o RESULT_VARIABLE result OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE)
    message(NOTICE "${output}  ${header}")
    if(NOT result EQUAL 0)
      string(APPEND over " ${header}")
    endif()
  endforeach()
endforeach()
if(over)
  message(FATAL_ERROR "more than ${LIMIT_MB} MB, or not compiled:${over}")
endif()

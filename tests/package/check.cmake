# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Builds and runs consumer/ against the library, found by WAY: find_package (of a fresh install) or add_subdirectory.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})

# Runs a command; its output is shown only when it fails.
function(must)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(NOTICE "${output}")
    message(FATAL_ERROR "failed: ${command}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

if(WAY STREQUAL "find_package")
  must(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
endif()
must(${CMAKE_COMMAND} -G ${GENERATOR} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/build -DWAY=${WAY}
  -DTENON_SOURCE=${SOURCE} -DCMAKE_PREFIX_PATH=${WORK}/prefix -DCMAKE_CXX_COMPILER=${COMPILER}
  -DCMAKE_FIND_PACKAGE_NO_PACKAGE_REGISTRY=ON)
must(${CMAKE_COMMAND} --build ${WORK}/build)
must(${WORK}/build/consumer)
if(NOT output MATCHES "the tenon fits")
  message(FATAL_ERROR "the consumer said: ${output}")
endif()

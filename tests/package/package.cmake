# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# The library as a user meets it: installed and found, or as a subdirectory.
foreach(way find_package add_subdirectory)
  add_test(NAME package.${way} COMMAND ${CMAKE_COMMAND} -DWAY=${way} -DSOURCE=${PROJECT_SOURCE_DIR}
    -DBUILD=${PROJECT_BINARY_DIR} -DWORK=${CMAKE_CURRENT_BINARY_DIR}/package/${way} -DGENERATOR=${CMAKE_GENERATOR}
    -DCOMPILER=${CMAKE_CXX_COMPILER} -P ${CMAKE_CURRENT_LIST_DIR}/check.cmake)
  set_tests_properties(package.${way} PROPERTIES LABELS unit TIMEOUT 300)
endforeach()

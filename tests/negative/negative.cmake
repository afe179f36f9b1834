# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# tests/negative/<axis>/<case>.cpp must not compile, and must say why. Its first lines are
#   // expect: a CMake regular expression that the compiler's output must match (one or more such lines)
#   // flags: more compiler flags (optional)
# A line `// right: ...` takes the place of the line before it, and then the case must compile.
# tests/negative/ok/*.cpp must compile. tests/negative/samples/ proves the harness.
set(negative_compilers "${CMAKE_CXX_COMPILER}")
if(TENON_CLANG AND NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND negative_compilers ${TENON_CLANG})
endif()
list(JOIN negative_compilers " " negative_compilers)
list(JOIN TENON_COMPILE_FLAGS " " negative_flags)
set(negative_command ${CMAKE_COMMAND} "-DCOMPILERS=${negative_compilers}" "-DFLAGS=${negative_flags}")
set(negative_headers ${CMAKE_CURRENT_BINARY_DIR}/negative_headers)
add_test(NAME negative.precompile COMMAND ${negative_command} -DINTO=${negative_headers}
  -P ${CMAKE_CURRENT_LIST_DIR}/precompile.cmake)
set_tests_properties(negative.precompile PROPERTIES LABELS "unit;negative" TIMEOUT 300 FIXTURES_SETUP negative_headers)

file(GLOB cases CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_LIST_DIR} ${CMAKE_CURRENT_LIST_DIR}/*/*.cpp)
foreach(case IN LISTS cases)
  string(REGEX REPLACE "\\.cpp$" "" name negative.${case})
  string(REPLACE "/" "." name ${name})
  set(must FAIL)
  if(case MATCHES "^samples/")
    continue()
  elseif(case MATCHES "^ok/")
    set(must COMPILE)
  endif()
  add_test(NAME ${name} COMMAND ${negative_command} -DPRECOMPILED=${negative_headers}
    -DCASE=${CMAKE_CURRENT_LIST_DIR}/${case} -DMUST=${must} -P ${CMAKE_CURRENT_LIST_DIR}/check.cmake)
  set_tests_properties(${name} PROPERTIES LABELS "unit;negative" TIMEOUT 120 FIXTURES_REQUIRED negative_headers)
endforeach()

function(add_negative_sample sample must sentence)
  add_test(NAME negative.catches.${sample} COMMAND ${negative_command} -DCASE=${CMAKE_CURRENT_FUNCTION_LIST_DIR}/samples/${sample}.cpp
    -DMUST=${must} -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/check.cmake)
  set_tests_properties(negative.catches.${sample} PROPERTIES LABELS "unit;negative" TIMEOUT 120
    PASS_REGULAR_EXPRESSION "${sentence}")
endfunction()
add_negative_sample(compiles FAIL "compiles, and must not")
add_negative_sample(another_sentence FAIL "does not say")
add_negative_sample(no_sentence FAIL "has no '// expect: ' line")
add_negative_sample(does_not_compile COMPILE "does not compile, and must")
add_negative_sample(wrong_when_right FAIL "does not compile when its wrong line is repaired")

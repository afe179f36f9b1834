# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Every header compiles alone and included twice, without a warning, on the project's compiler. Clang and, where it is
# found, nvcc get one file with all of them: that each is complete alone, the first compiler shows. And core and policy
# headers stay cheap.
file(GLOB folders CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/include/tenon ${PROJECT_SOURCE_DIR}/include/tenon/*)
set(other_compilers "")
if(TENON_CLANG AND NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND other_compilers ${TENON_CLANG})
endif()
if(TENON_NVCC)
  list(APPEND other_compilers ${TENON_NVCC})
endif()

# Headers that need a library are left out where it is not.
set(includes "")
set(left_out "")
if(TARGET tenon::mpi)
  list(APPEND includes ${MPI_CXX_INCLUDE_DIRS})
else()
  list(APPEND left_out tenon/comm/mpi.hpp)
endif()
if(TARGET tenon::nccl)
  list(APPEND includes ${CUDAToolkit_INCLUDE_DIRS})
else()
  list(APPEND left_out tenon/comm/nccl.hpp)
endif()

function(add_header_test folder glob compiler together)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/tenon/${glob})
  if(NOT headers)
    return()
  endif()
  cmake_path(GET compiler FILENAME short)
  add_test(NAME headers.${folder}.${short} COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR}/include -DGLOB=${glob}
    -DCOMPILER=${compiler} -DHOST=${CMAKE_CXX_COMPILER} "-DFLAGS=${TENON_COMPILE_FLAGS}" -DTOGETHER=${together}
    "-DINCLUDES=${includes}" "-DLEFT_OUT=${left_out}" -DWORK=${CMAKE_CURRENT_BINARY_DIR}/headers/${folder}.${short} -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/check.cmake)
  set_tests_properties(headers.${folder}.${short} PROPERTIES LABELS "unit;headers" TIMEOUT 600)
endfunction()
foreach(folder IN LISTS folders)
  if(IS_DIRECTORY ${PROJECT_SOURCE_DIR}/include/tenon/${folder})
    add_header_test(${folder} ${folder}/*.hpp ${CMAKE_CXX_COMPILER} OFF)
  endif()
endforeach()
foreach(compiler IN LISTS CMAKE_CXX_COMPILER other_compilers)
  add_header_test(all *.hpp ${compiler} ON)
endforeach()
# A header that does not compile alone is caught.
add_test(NAME headers.catches COMMAND ${CMAKE_COMMAND} -DROOT=${CMAKE_CURRENT_LIST_DIR} -DGLOB=samples/*.hpp
  -DCOMPILER=${CMAKE_CXX_COMPILER} "-DFLAGS=${TENON_COMPILE_FLAGS}" -DPREFIX=
  -DWORK=${CMAKE_CURRENT_BINARY_DIR}/headers/catches -P ${CMAKE_CURRENT_LIST_DIR}/check.cmake)
set_tests_properties(headers.catches PROPERTIES LABELS "unit;headers" TIMEOUT 60
  PASS_REGULAR_EXPRESSION "2 of 2 headers do not compile")

add_executable(measure_compiler ${CMAKE_CURRENT_LIST_DIR}/measure.cpp)
target_link_libraries(measure_compiler PRIVATE tenon_own_build)
target_compile_features(measure_compiler PRIVATE cxx_std_20)
add_test(NAME cost.headers COMMAND ${CMAKE_COMMAND} -DROOT=${PROJECT_SOURCE_DIR}/include -DFOLDERS=core,policy
  -DLIMIT_MB=120 -DMEASURE=$<TARGET_FILE:measure_compiler> -DCOMPILER=${CMAKE_CXX_COMPILER}
  "-DFLAGS=${TENON_COMPILE_FLAGS}" -DWORK=${CMAKE_CURRENT_BINARY_DIR}/headers/cost
  -P ${CMAKE_CURRENT_LIST_DIR}/cost.cmake)
set_tests_properties(cost.headers PROPERTIES LABELS "unit;headers" TIMEOUT 600)
if(EXISTS ${PROJECT_SOURCE_DIR}/examples/minimal_trainer.cpp)
  add_test(NAME cost.minimal_trainer COMMAND measure_compiler --limit-mb 1536
    ${CMAKE_CXX_COMPILER} ${TENON_COMPILE_FLAGS} -O3 -c ${PROJECT_SOURCE_DIR}/examples/minimal_trainer.cpp -o /dev/null)
  set_tests_properties(cost.minimal_trainer PROPERTIES LABELS "unit;headers" TIMEOUT 600)
endif()

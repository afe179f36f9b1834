# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# tenon::<component> for each folder that exists, and tenon::tenon: all that needs nothing but C++20 and threads.
include(GNUInstallDirs)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.10 QUIET)
find_package(MPI QUIET COMPONENTS CXX)
find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND)
  find_library(TENON_NCCL nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
endif()

add_library(tenon_tenon INTERFACE)
set(TENON_TARGETS tenon_tenon)
foreach(line IN LISTS TENON_COMPONENTS)
  string(REGEX MATCH "^([a-z]+)\\|([0-9]+)\\|(.*)$" line "${line}")
  set(name ${CMAKE_MATCH_1})
  string(REPLACE "," ";" below "${CMAKE_MATCH_3}")
  if(NOT IS_DIRECTORY ${PROJECT_SOURCE_DIR}/include/tenon/${name})
    continue()
  endif()
  add_library(tenon_${name} INTERFACE)
  list(APPEND TENON_TARGETS tenon_${name})
  foreach(lower IN LISTS below)
    if(TARGET tenon_${lower})
      target_link_libraries(tenon_${name} INTERFACE tenon_${lower})
    endif()
  endforeach()
  set(optional FALSE)
  tenon_component_closure(${name} closure)
  foreach(external IN LISTS TENON_EXTERNALS)
    string(REPLACE "|" ";" external ${external})
    list(GET external 0 owner)
    list(GET external 1 package)
    list(GET external 2 target)
    if(owner STREQUAL name)
      target_link_libraries(tenon_${name} INTERFACE ${target})
    endif()
    if(owner IN_LIST closure AND NOT package STREQUAL "Threads")
      set(optional TRUE)
    endif()
  endforeach()
  if(NOT optional)
    target_link_libraries(tenon_tenon INTERFACE tenon_${name})
  endif()
endforeach()

# comm/mpi.hpp, without the C++ bindings that MPI once had.
if(TARGET MPI::MPI_CXX)
  add_library(tenon_mpi INTERFACE)
  list(APPEND TENON_TARGETS tenon_mpi)
  target_link_libraries(tenon_mpi INTERFACE tenon_comm MPI::MPI_CXX)
  target_compile_definitions(tenon_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
endif()
# comm/nccl.hpp.
if(TENON_NCCL)
  add_library(tenon_nccl INTERFACE)
  list(APPEND TENON_TARGETS tenon_nccl)
  target_link_libraries(tenon_nccl INTERFACE tenon_comm CUDA::cudart
    $<BUILD_INTERFACE:${TENON_NCCL}> $<INSTALL_INTERFACE:nccl>)
endif()

target_include_directories(tenon_core INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(tenon_core INTERFACE cxx_std_20)
# A second seat belt: every product that meets a sum is written as an fma already (docs/decisions/0001), and a test
# builds with contraction on.
target_compile_options(tenon_core INTERFACE
  $<$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>:-ffp-contract=off>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-ffp-contract=off>)

foreach(target IN LISTS TENON_TARGETS)
  string(REGEX REPLACE "^tenon_" "" name ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  add_library(tenon::${name} ALIAS ${target})
endforeach()

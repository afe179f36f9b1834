# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# The one list of the library's folders: name | floor | folders it builds on. CMakeLists.txt makes a target of each line,
# the package file looks dependencies up by it, and tests/layers checks every #include against it. A folder may include
# itself and whatever its line reaches, directly or through others; all of that is on lower floors.
set(TENON_COMPONENTS
  "core|0|"
  "policy|1|core"
  "io|1|core"
  "profile|1|core"
  "exec|2|policy,profile"
  "comm|2|policy,profile"
  "text|2|policy,io,profile"
  "ops|3|exec"
  "data|3|exec,io,text"
  "nn|4|ops,comm"
  "optim|4|ops,comm"
  "models|5|nn"
  "parallel|5|nn,optim"
  "train|6|models,parallel,optim,data,io"
  "infer|6|models,parallel,data,io"
  "adapt|7|train,infer"
  "rl|7|train,infer"
  "serve|7|infer"
  "cluster|7|train,infer")

# What each folder needs beyond C++20: name | package | target. mpi and nccl are no folders but comm/mpi.hpp and
# comm/nccl.hpp.
set(TENON_EXTERNALS
  "exec|Threads|Threads::Threads"
  "comm|Threads|Threads::Threads"
  "mpi|MPI|MPI::MPI_CXX"
  "nccl|CUDAToolkit|CUDA::cudart"
  "io|nlohmann_json|nlohmann_json::nlohmann_json")

# Sets <out> to <component> and everything under it.
function(tenon_component_closure component out)
  set(open ${component})
  set(closed "")
  while(open)
    list(POP_FRONT open name)
    list(APPEND closed ${name})
    foreach(line IN LISTS TENON_COMPONENTS)
      if(line MATCHES "^${name}\\|[0-9]+\\|(.*)$")
        string(REPLACE "," ";" below "${CMAKE_MATCH_1}")
        list(APPEND open ${below})
      endif()
    endforeach()
  endwhile()
  list(REMOVE_DUPLICATES closed)
  set(${out} ${closed} PARENT_SCOPE)
endfunction()

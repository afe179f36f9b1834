# The trainers of the examples' lines of types, and the engine for any model, call kernels that are compiled once, for
# speed: examples/train_gpt/kernels.hpp and examples/any_model/kernels.hpp know them all.
cmake_minimum_required(VERSION 3.25)
find_program(nm nm)
file(GLOB objects ${TENON_BINARY_DIR}/examples/CMakeFiles/train_gpt_*.dir/lines/*.o
  ${TENON_BINARY_DIR}/examples/CMakeFiles/any_model.dir/any_model/engine*.o
  ${TENON_BINARY_DIR}/examples/CMakeFiles/generate.dir/generate*.o)
if(NOT nm OR NOT objects)
  message("skipped: nm was not found, or no objects of examples where Make and Ninja put them")
  return()
endif()
execute_process(COMMAND ${nm} -C --defined-only ${objects} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "tenon::ops::run_kernel<[^\n]*" kernels "${symbols}")
list(REMOVE_DUPLICATES kernels)
if(kernels)
  list(JOIN kernels "\n  " kernels)
  message(FATAL_ERROR "compiled again with every trainer or with the engine:\n  ${kernels}\n"
    "Fix: add them to examples/train_gpt/kernels.hpp or examples/any_model/kernels.hpp.")
endif()

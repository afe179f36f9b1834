# generate, with everything that it needs from the system in it.
cmake_minimum_required(VERSION 3.25)
set(program ${TENON_BINARY_DIR}/examples/generate_static)
if(NOT EXISTS ${program})
  message("skipped: generate_static was not built: a build of another type, or no static libraries")
  return()
endif()
file(SIZE ${program} bytes)
if(bytes GREATER 3300000)
  message(FATAL_ERROR "generate_static has ${bytes} bytes, more than 3.3 MB. Fix: see what grew (nm --size-sort), and "
    "whether what is not a kernel is compiled for size.")
endif()
message("${bytes} bytes")
execute_process(COMMAND ${program} --help OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)

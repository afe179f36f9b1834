# ctest: TIMEOUT 300 LABELS fault
# Runs every ```sh block of docs/reliability.md.
cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/markdown.cmake)
make_folder(docs_reliability)
run_commands(reliability "")
if(count LESS 4)
  message(FATAL_ERROR "only ${count} commands were found in docs/reliability.md")
endif()

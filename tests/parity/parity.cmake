# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# Whole models against PyTorch: dump_model writes weights, logits and gradients, transformer_parity.py computes them anew.
if(NOT EXISTS ${CMAKE_CURRENT_LIST_DIR}/dump_model.cpp OR NOT TARGET nlohmann_json::nlohmann_json)
  return()
endif()
add_executable(dump_model ${CMAKE_CURRENT_LIST_DIR}/dump_model.cpp)
target_link_libraries(dump_model PRIVATE tenon_own_build tenon::tenon nlohmann_json::nlohmann_json)
foreach(model gpt2 llama mixtral)
  set(dump ${CMAKE_CURRENT_BINARY_DIR}/parity_${model}.safetensors)
  add_test(NAME parity/dump_${model} COMMAND dump_model ${model} ${dump})
  set_tests_properties(parity/dump_${model} PROPERTIES LABELS parity TIMEOUT 120 FIXTURES_SETUP dump_${model})
  add_test(NAME parity/${model} COMMAND ${TENON_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/transformer_parity.py ${dump})
  set_tests_properties(parity/${model} PROPERTIES LABELS parity TIMEOUT 300 FIXTURES_REQUIRED dump_${model}
    SKIP_RETURN_CODE 77)
endforeach()

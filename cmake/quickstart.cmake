# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#
# cmake -P cmake/quickstart.cmake [-- flags of train_gpt]
# Finds or installs what is missing, builds the example train_gpt and trains a small GPT for about two minutes.
include(${CMAKE_CURRENT_LIST_DIR}/setup.cmake)
tenon_arguments(flags)
tenon_setup(NEED compiler builder json cli11)
tenon_configure(release)
message("tenon: building train_gpt")
tenon_build(built release --target train_gpt)
if(NOT built)
  tenon_stop("tenon: train_gpt could not be built, see above.")
endif()
# default_flag(NAME VALUE): what is passed on unless the user gave the flag.
function(default_flag name value)
  if(NOT "${flags}" MATCHES "(^|;)${name}(=|;|$)")
    list(PREPEND flags ${name} ${value})
    set(flags "${flags}" PARENT_SCOPE)
  endif()
endfunction()
default_flag(--out run/quickstart)
# About two minutes on two cores, and enough that the samples look like the text.
if(NOT "${flags}" MATCHES "(^|;)--(model|steps)(=|;)")
  default_flag(--steps 1300)
  default_flag(--learning-rate 2e-3)
endif()
execute_process(COMMAND ${TENON_ROOT}/build/release/examples/train_gpt ${flags} WORKING_DIRECTORY ${TENON_ROOT}
  RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  tenon_stop("tenon: train_gpt did not finish (${result}).")
endif()

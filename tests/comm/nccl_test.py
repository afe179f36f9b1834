# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: LABELS gpu
"""Devices do what a communicator must, through NCCL; where there is none, the program was at least built."""
import os
import subprocess
import sys

program = os.path.join(sys.argv[1], "tests", "comm_nccl_program")
if not os.path.exists(program):
    print("skipped: comm_nccl_program was not built: CMake found no NCCL")
    sys.exit(77)
subprocess.run([program], check=True)

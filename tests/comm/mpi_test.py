# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: LABELS mpi TIMEOUT 300 PROCESSORS 2
"""MPI ranks do what every communicator must, and end, all of them and soon, however one of them fails."""
import os
import shutil
import subprocess
import sys
import time

program = os.path.join(sys.argv[1], "tests", "comm_mpi_program")
if not shutil.which("mpirun"):
    print("skipped: mpirun was not found. Fix: install MPI (Debian: libopenmpi-dev openmpi-bin)")
    sys.exit(77)
if not os.path.exists(program):
    print("skipped: comm_mpi_program was not built: CMake found no MPI")
    sys.exit(77)
# Open MPI refuses root and more ranks than cores unless told; others do not read these.
environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_rmaps_base_oversubscribe="1", TENON_START_TIMEOUT="2")


def run(ranks, way, *more):
    begin = time.time()
    # A session of its own, so that nothing of it is left behind when it takes too long.
    process = subprocess.Popen(["mpirun", "-np", str(ranks), program, way, *more], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        sys.exit(f"{way} with {ranks} ranks hangs: {process.communicate()[0]}")
    seconds = time.time() - begin
    print(f"{way} with {ranks} ranks: {seconds:.1f} s")
    return process.returncode, output, seconds


for ranks in (1, 2, 3, 4, 6, 8):
    code, output, _ = run(ranks, "all")
    assert code == 0 and f"{ranks} ranks: all holds" in output, output

for way, words, times in (
        ("one_throws", "rank 1 of 3: no disk", 1),
        ("all_throw", "no such option", 1),
        ("throw_differently", ": I am ", 3),
        ("differ", "ranks differ in their policies: rank 0 has 'fp32', rank 1 has 'bf16'.", 1),
        ("missing", "of 3 ranks these have not come in 2 s: 1. Fix:", None),  # each of those that wait may say it
        ("stream_waits", "rank 1 of 3: no disk", 1)):
    code, output, seconds = run(3, way)
    assert code != 0 and (output.count(words) == times or times is None and words in output), (way, code, output)
    assert seconds < 30, f"{way} took too long"

# Two ranks, of which the second never comes to MPI.
code, output, seconds = run(1, "all", "0", ":", "-np", "1", program, "all", "1")
assert code != 0 and "MPI did not start in 2 s: ranks that do not say this have not come." in output, output
assert seconds < 30, "a rank that never starts took too long"

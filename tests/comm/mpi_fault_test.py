# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: LABELS fault TIMEOUT 120 PROCESSORS 2
"""Faults of ranks that are processes are named within a second on every rank that is left, and all end.

With a number behind the folder of the built programs: that many faults of all kinds, threads included."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

build = sys.argv[1]
many = int(sys.argv[2]) if len(sys.argv) > 2 else 0
program = os.path.join(build, "tests", "comm_mpi_fault_program")
if not shutil.which("mpirun"):
    print("skipped: mpirun was not found. Fix: install MPI (Debian: libopenmpi-dev openmpi-bin)")
    sys.exit(77)
if not os.path.exists(program):
    print("skipped: comm_mpi_fault_program was not built: CMake found no MPI")
    sys.exit(77)
environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_rmaps_base_oversubscribe="1", TENON_WATCH="0.3")


def run(command, limit, **more):
    process = subprocess.Popen(command, env=dict(environment, **more), text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        sys.exit(f"{command} hangs: {process.communicate()[0]}")
    return process.returncode, output


if many:
    code, output = run([os.path.join(build, "tests", "test_comm"), "--source-file=*/tests/comm/fault_test.cpp"], many * 5,
                       TENON_FAULTS=str(many // 2))
    said = [line.split("MESSAGE: ")[1] for line in output.splitlines() if "MESSAGE: " in line]
    assert code == 0 and len(said) == 1, output
    print(said[0], flush=True)

# What a process outlives.
first = 0
for ranks in (3, 4, 5) if many else (3, 4):
    count = many * 4 // 10 // 3 if many else 8
    _, output = run(["mpirun", "-np", str(ranks), program, str(first), str(count)], 60 + count * 5)
    said = [line for line in output.splitlines() if " faults of " in line]
    assert len(said) == 1 and said[0].startswith(f"{count} faults of {ranks} processes, 0 not as they must"), output
    print(said[0], flush=True)
    first += count

# What it does not: killed, stopped, asleep for good. Each needs an mpirun.
ways = ["kill"] * (many - many // 2 - first if many else 2) + ["stop", "sleep"]
longest = 0.0
with tempfile.TemporaryDirectory() as folder:
    for seed, way in enumerate(ways):
        ranks = 3 + seed % 3
        told = os.path.join(folder, str(seed))
        begin = time.time()
        code, output = run(["mpirun", "-np", str(ranks), program, way, str(seed), told], 30)
        assert code != 0 and time.time() - begin < 15, (way, seed, code, output)
        lines = [line.split(" ", 2) for line in open(told).read().splitlines()]
        begins = [int(line[1]) for line in lines if line[0] == "begin"]
        ends = [int(line[1]) for line in lines if line[0] == "end"]
        # The launcher lets a stopped one go on before it ends it.
        assert len(begins) == 1 and len(ends) in (ranks - 1, ranks), (way, seed, lines, output)
        assert all(line[2] == "good" for line in lines if line[0] == "end"), (way, seed, lines)
        assert output.count("hang watch: ") == 1, output
        longest = max(longest, (max(ends) - begins[0]) / 1e9)
print(f"{len(ways)} ranks killed, stopped or asleep; the last rank was told after at most {longest:.3f} s")
assert longest < 1

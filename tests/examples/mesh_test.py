# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: LABELS parallel;mpi TIMEOUT 600 PROCESSORS 2
"""train_gpt gives one hash on one rank, on meshes of threads and of MPI processes, and when a run goes on on another
mesh; a mesh that does not fit is refused with a sentence, by all ranks; mesh_matrix says all of it again."""
import json
import os
import re
import shutil
import subprocess
import sys

programs = os.path.join(sys.argv[1], "examples")
folder = os.path.join(sys.argv[1], "mesh_test")
shutil.rmtree(folder, ignore_errors=True)
os.mkdir(folder)
text = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")
common = ["--text", text, "--steps", "4", "--batch", "24", "--seed", "3", "--json"]
tiny = ["--model", "gpt-mesh", *common]
# Open MPI refuses root and more ranks than cores unless told; others do not read these.
environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_rmaps_base_oversubscribe="1")
has_mpi = shutil.which("mpirun") and os.path.exists(os.path.join(programs, "train_gpt_mpi"))
if not has_mpi:
    print("without MPI: mpirun was not found, or train_gpt_mpi was not built")


def run(*words):
    """Exit code, stdout and stderr of a program of the examples, or of mpirun with one."""
    words = [os.path.join(programs, w) if w in ("train_gpt", "train_gpt_threads", "train_gpt_mpi", "mesh_matrix") else w
             for w in words]
    # A session of its own, so that nothing of it is left behind when it takes too long.
    process = subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    try:
        out, error = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        sys.exit(f"{words} hangs: {process.communicate()}")
    return process.returncode, out, error


def summary(*words):
    code, out, error = run(*words)
    assert code == 0, (words, code, error)
    assert out.count("\n") == 1, (words, out)  # rank 0 alone prints
    return json.loads(out)


def same(expected, *words, keys=("parameters_sha256", "loss", "validation_loss")):
    found = summary(*words)
    print(found["mesh"], "over", found["communicator"], found["bytes_sent_per_step"], found["parameters_sha256"])
    for key in keys:
        assert found[key] == expected[key], (words, expected, found)
    return found


def threads(mesh, *more):
    return ["train_gpt_threads", "--mesh", mesh, *more]


def mpi(ranks, *more):
    return ["mpirun", "-np", str(ranks), "train_gpt_mpi", *more]


gpt = summary("train_gpt", *tiny)
assert (gpt["mesh"], gpt["ranks"], gpt["bytes_sent_per_step"]) == ("data=1", 1, 0), gpt
plain = same(gpt, *threads("data=2", "--accumulate", "3", *tiny))
assert (plain["mesh"], plain["communicator"], plain["ranks"]) == ("data=2", "threads", 2), plain
assert plain["bytes_sent_per_step"] > 0, plain
same(gpt, *threads("data=3", "--zero", "1", *tiny))
same(gpt, *threads("data=4", "--zero", "2", "--accumulate", "3", *tiny))
same(gpt, *threads("data=6", "--zero", "3", *tiny))
same(gpt, *threads("data=2,tensor=2", "--zero", "1", "--accumulate", "3", *tiny))
same(gpt, *threads("pipeline=3", "--schedule", "zero_bubble", "--accumulate", "6", *tiny))
same(gpt, *threads("context=2", "--accumulate", "24", *tiny))
for model in (["--model", "mixtral-mesh"], ["--model", "llama-tiny", "--precision", "bf16_mixed", "--dropout", "0.1"]):
    same(summary("train_gpt", *model, *common), *threads("data=4", "--accumulate", "3", "--zero", "1", *model, *common))
if has_mpi:
    over_mpi = same(gpt, *mpi(4, "--accumulate", "3", *tiny))
    assert (over_mpi["mesh"], over_mpi["communicator"], over_mpi["ranks"]) == ("data=4", "mpi", 4), over_mpi
    same(gpt, *mpi(3, "--zero", "3", *tiny))
    same(gpt, *mpi(4, "--mesh", "data=2,tensor=2", "--accumulate", "3", *tiny))

# Half of the run on one mesh, the rest on another.
first = ["--model", "gpt-mesh", "--text", text, "--batch", "24", "--seed", "3", "--json", "--out", folder]
whole = [*first, "--steps", "4", "--resume"]
# The rate's schedule knows the number of steps, so that the first half is the run, stopped.
process = subprocess.Popen([os.path.join(programs, "train_gpt_threads"), "--mesh", "data=2", "--accumulate", "3", *first,
                            "--steps", "4", "--checkpoint-every", "2"], stdout=subprocess.DEVNULL)
assert process.wait(timeout=300) == 0
shutil.rmtree(os.path.join(folder, "step-00000004"))
same(gpt, *threads("data=4", "--accumulate", "3", "--zero", "3", *whole))
if has_mpi:
    shutil.rmtree(os.path.join(folder, "step-00000004"))
    same(gpt, *mpi(4, "--mesh", "data=2,tensor=2", "--accumulate", "3", "--checkpoint-every", "1", *whole))
    # Reads what four wrote, and has nothing to do.
    same(gpt, *mpi(2, "--accumulate", "3", *whole), keys=("parameters_sha256",))

for words, sentence in (
        (threads("data=2,tensor=x"), "tensor is 'x'"),
        (threads("data=2,rows=2"), "'rows' is no axis"),
        (threads("data=5", *tiny), "batch 24 is not a multiple of 5 ranks x accumulate 1"),
        (threads("data=2", *tiny), "a micro-batch of 12 sequences"),
        (threads("data=2", "--zero", "4"), "--zero"),
        (threads("data=2,context=2", "--exchange", "all_to_all", "--zero", "1", *tiny),
         "no trainer was compiled for data<dynamic>,context<dynamic, all_to_all>,zero<1>; there are 'data<dynamic>,"),
        (threads("tensor=3", *tiny), "tensor"), (threads("pipeline=8", "--accumulate", "3", *tiny), "6 layers"),
        (threads("context=2", "--accumulate", "3", *tiny), "whose ranks hold parts of one sequence"),
        (threads("expert=3", "--model", "mixtral-mesh", *common), "expert")):
    code, out, error = run(*words)
    assert code != 0 and out == "" and sentence in error and "Fix: " in error and error.count("\n") == 1, (words, error)
for words, sentence in (
        (mpi(3, "--mesh", "data=2", *tiny), "the mesh data=2 takes 2 ranks, and there are 3"),
        (mpi(2, *tiny), "a micro-batch of 12 sequences"),
        (mpi(2, "--stepz", "3"), "--stepz"),
        (mpi(3, "--text", "missing.txt"), "missing.txt")) if has_mpi else ():
    code, out, error = run(*words)
    assert code != 0 and out == "" and error.count(sentence) == 1, (words, code, out, error)
if has_mpi:
    code, out, error = run(*mpi(2, "--help"))
    assert code == 0 and out.count("--mesh") == 1, (code, out, error)

code, out, error = run("mesh_matrix", "--resume", "--quick", "--json")
assert code == 0, (code, out, error)
assert [(m["pairs"], m["distinct_hashes"]) for m in json.loads(out)["models"]] == [(16, 1), (16, 1)], out
code, out, error = run("mesh_matrix", "--quick", "--json")
assert code == 0 and re.search(r'"distinct_hashes": 1\s*\}\s*\]\s*\}\s*$', out), (code, out, error)
for model in json.loads(out)["models"]:
    assert model["distinct_hashes"] == 1 and len(model["meshes"]) >= 16, model
    assert len({m["parameters_sha256"] for m in model["meshes"]}) == 1, model

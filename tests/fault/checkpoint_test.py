# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 600 PROCESSORS 2
"""A run that saves behind every step is killed (SIGKILL) at random moments, most of them while it saves, and resumed on
other meshes: after each kill the newest checkpoint is whole and at most one step is lost, and the end has the bits of
the undisturbed run. The long version: python3 tests/fault/checkpoint_test.py build/release 200."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

programs = os.path.join(sys.argv[1], "examples")
kills = int(sys.argv[2]) if len(sys.argv) > 2 else 6
folder = os.path.join(sys.argv[1], "fault_checkpoint_test")
shutil.rmtree(folder, ignore_errors=True)
os.mkdir(folder)
text = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")
steps = 4 * kills + 8
out = os.path.join(folder, "run")
meshes = [["--mesh", "data=2", "--accumulate", "2", "--zero", "1"], ["--mesh", "data=1"],
          ["--mesh", "data=2,tensor=2", "--accumulate", "2", "--zero", "3"],
          ["--mesh", "pipeline=2", "--accumulate", "4", "--zero", "1"]]
random.seed(5)


def command(mesh, where):
    return [os.path.join(programs, "train_gpt_threads"), "--model", "gpt-mesh", "--context", "16", "--batch", "8", "--text",
            text, "--steps", str(steps), "--seed", "3", "--json", "--checkpoint-every", "1", "--keep-checkpoints", "3",
            "--resume", "--threads", "1", "--out", where, *mesh]


def newest():
    names = [n for n in (os.listdir(out) if os.path.isdir(out) else ()) if re.fullmatch(r"step-\d{8}", n)]
    return max((int(n[5:]) for n in names), default=0)


whole = subprocess.run(command(meshes[0], os.path.join(folder, "whole")), check=True, capture_output=True, text=True)
expected = json.loads(whole.stdout)["parameters_sha256"]

done, in_save, attempt = 0, 0, 0
while True:
    process = subprocess.Popen(command(meshes[attempt % len(meshes)], out), text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    attempt += 1
    before = newest()
    if done < kills:
        # Some steps, then a moment within the next one.
        wanted = before + random.choice((1, 1, 2))
        while process.poll() is None and newest() < wanted:
            time.sleep(0.001)
        time.sleep(random.random() * 0.1)
        process.send_signal(signal.SIGKILL)
    found, said = process.communicate()
    assert re.fullmatch(r"(continues after step \d+\n)?", said), said  # no checkpoint was passed over
    if process.returncode == 0:
        break
    assert process.returncode == -signal.SIGKILL, (process.returncode, said)
    done += 1
    in_save += any(".tenon-" in n for n in os.listdir(out))
    verified = subprocess.run([os.path.join(programs, "checkpoint"), out], capture_output=True, text=True)
    assert verified.returncode == 0 and verified.stdout.count(": good: ") >= 1, verified
    # Steps are done before they are written to the metrics, and one checkpoint at a time is under way.
    with open(os.path.join(out, "metrics.jsonl")) as metrics:
        last = max((json.loads(line)["step"] for line in metrics if line.endswith("}\n")), default=0)
    assert newest() >= last - 2, (newest(), last)
digest = json.loads(found)["parameters_sha256"]
print(f"{done} kills, {in_save} of them while saving; undisturbed {expected}, killed {digest}")
assert digest == expected
assert done >= min(kills, 4), "no run was killed: the test proves nothing"
left = [n for n in os.listdir(out) if ".tenon-" in n]
assert not left, left

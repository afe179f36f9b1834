# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 600 PROCESSORS 2
"""Bits are flipped at random (train_gpt_threads --flip): in parameters and what the optimizer keeps between steps, in
parameters as blocks read them, hidden states, gradients before and after they are added over ranks. Each must be found,
by the run itself or by replay, on the right rank, in the right step, layer or tensor; and in undisturbed runs nothing.
The long version: python3 tests/fault/receipts_test.py build/release 500."""
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter

programs = os.path.join(sys.argv[1], "examples")
flips = int(sys.argv[2]) if len(sys.argv) > 2 else 12
folder = os.path.join(sys.argv[1], "fault_receipts_test")
shutil.rmtree(folder, ignore_errors=True)
text = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")
steps = 4
gpt = ["--model", "gpt-mesh", "--context", "16", "--batch", "4"]
mixtral = ["--model", "mixtral-mesh", "--context", "16", "--batch", "4"]
half = ["--precision", "bf16_mixed"]
runs = [gpt + ["--mesh", "data=1"],
        gpt + half + ["--mesh", "data=2", "--accumulate", "2"],
        gpt + ["--mesh", "tensor=2"],
        gpt + half + ["--mesh", "data=2", "--zero", "3"],
        gpt + ["--mesh", "pipeline=2", "--accumulate", "2"],
        gpt + half + ["--mesh", "data=2", "--zero", "1"],
        mixtral + ["--mesh", "expert=2"]]
directions = {"forward": 1, "received": 1, "backward": -1, "received_back": -1}
random.seed(11)


def run(program, arguments, where, *more):
    common = ["--text", text, "--steps", str(steps), "--seed", "3", "--threads", "1", "--sample-tokens", "0",
              "--checkpoint-every", "0", "--json", "--out", where]
    return subprocess.run([os.path.join(programs, program), *arguments, *common, *more], capture_output=True, text=True)


def items_of(where):
    """What every rank does in a step: the same in all steps, but for the hashes."""
    ranks = []
    for rank in range(2):
        name = os.path.join(where, "receipts", f"rank-{rank:04d}.jsonl")
        if os.path.exists(name):
            with open(name) as lines:
                ranks.append([json.loads(line)["items"] for line in lines][1])
    return ranks


undisturbed = []
for i, arguments in enumerate(runs):
    where = os.path.join(folder, f"good-{i}")
    done = run("train_gpt_threads", arguments, where, "--receipts")
    assert done.returncode == 0, done.stderr
    undisturbed.append(items_of(where))
    for mesh in (arguments, [*arguments[:arguments.index("--mesh")], "--mesh", "data=1"]):
        replay = run("replay", mesh, where)
        said = json.loads(replay.stdout)
        assert replay.returncode == 0 and said["agrees"] and said["steps"] == steps + 1, (replay.stdout, replay.stderr)
        assert said["ranks_compared"] == (mesh == arguments), said

kinds, found_by, wrong = Counter(), Counter(), []
for n in range(flips):
    which = n % len(runs)
    ranks = undisturbed[which]
    rank = random.randrange(len(ranks))
    # A kind of item first, or the many tensors would leave little for the rest.
    kind = random.choice(sorted({item[0] for item in ranks[rank]} - {"batch"}))
    number = random.choice([i for i, item in enumerate(ranks[rank]) if item[0] == kind])
    event, micro_batch, layer, tensor, _ = ranks[rank][number]
    between = event == "after" and random.random() < 0.7  # memory changes between two steps
    # Within the next layer, behind the hash of what it reads; of bits that no rounding hides.
    within = event in directions and half[0] not in runs[which] and random.random() < 0.5
    step = random.randint(1, steps - between)
    flip = f"{rank},{step},{number},{random.randrange(1 << 40)},{random.randrange(18, 32) if within else random.randrange(32)}" + (
        ",behind" if between or within else "")
    where = os.path.join(folder, "bad")
    done = run("train_gpt_threads", runs[which], where, "--receipts", "--flip", flip)
    kinds[event + (" between steps" if between else " within the next layer" if within else "")] += 1
    if between:
        good = done.returncode == 1 and re.search(
            f"step {step + 1}: on rank {rank} {re.escape(tensor)} is not what step {step} had left", done.stderr)
        found_by["the run"] += bool(good)
        said = done.stderr
    elif event == "read" and done.returncode == 1:  # a part of it that this rank itself updates
        good = re.search(rf"step {step}: on rank {rank} (rounded\.)?{re.escape(tensor)} is not what", done.stderr)
        found_by["the run"] += bool(good)
        said = done.stderr
    else:
        replay = run("replay", runs[which], where)
        said = replay.stdout + replay.stderr + done.stderr
        good = done.returncode == 0 and replay.returncode == 1
        if good:
            found = json.loads(replay.stdout)
            here = (found["event"], found["layer"])
            if within:
                good = found["step"] == step and (rank in found["ranks"] or here[0].startswith("received")) and (
                    here[0] not in directions or here in (
                        (event.replace("received_back", "backward").replace("received", "forward"),
                         layer + directions[event]), ("received", layer), ("received_back", layer), ("backward", 6)))
            else:
                good = (found["step"], found["ranks"], found["event"], found["layer"], found["tensor"],
                        found["micro_batch"]) == (step, [rank], event, layer, tensor, micro_batch)
        found_by["replay"] += bool(good)
    if not good:
        wrong.append((runs[which], flip, ranks[rank][number], said))
        print("not found, or not as it was:", *wrong[-1], flush=True)
    shutil.rmtree(where)
    if flips > 50 and n % 50 == 49:
        print(f"{n + 1} of {flips}", flush=True)
print(f"{flips} flipped bits on {len(runs)} meshes, {len(wrong)} not found or not located; found by", dict(found_by))
print("flipped:", dict(sorted(kinds.items())))
print(f"{2 * len(runs)} replays of undisturbed runs: nothing found")
assert not wrong


def refused(expected, where, *more):
    said = run("replay", runs[1], where, *more)
    assert said.returncode == 2 and expected in said.stderr and "Fix: " in said.stderr, (said.stdout, said.stderr)


good = os.path.join(folder, "good-1")
refused("there are no receipts", os.path.join(folder, "nothing"))
refused("learning_rate is", good, "--learning-rate", "0.1")
refused("steps 9 to 9 are asked for", good, "--step", "9")
os.truncate(os.path.join(good, "receipts", "rank-0001.jsonl"), 100)
refused("rank-0001.jsonl: has no receipt of step 1", good)
shutil.rmtree(folder)

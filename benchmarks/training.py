#!/usr/bin/env python3
"""Whole training steps, tenon beside PyTorch: same model, same batch, fp32, same threads, in turn in one run.

usage: training.py [--build build/release] [--python PYTHON_WITH_TORCH] [--rounds 3] [--models small 124m]

Prints a Markdown table: tokens/s of both (medians over rounds), the ratio, tenon's share of the FMA peak measured in
its own process, peak memory of both and their ratio.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

SHAPES = {
    "small": ("6 layers, width 384, context 256, byte vocabulary, batch 8",
              dict(layers=6, width=384, heads=6, context=256, vocabulary=256, batch=8), 8),
    "124m": ("GPT-2 124M, batch 4, context 256",
             dict(layers=12, width=768, heads=12, context=256, vocabulary=50304, batch=4), 4),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--build", default="build/release")
parser.add_argument("--python", default=sys.executable, help="an interpreter that has PyTorch")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
args = parser.parse_args()
here = os.path.dirname(os.path.abspath(__file__))


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    if done.returncode:
        sys.exit(f"training.py: {' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


print("| model | tenon tokens/s | PyTorch tokens/s | ratio | tenon, share of FMA peak | tenon MiB | PyTorch MiB | memory ratio |")
print("| --- | --- | --- | --- | --- | --- | --- | --- |")
version = ""
for name in args.models:
    title, shape, steps = SHAPES[name]
    flags = [f"--{key}={value}" for key, value in shape.items()] + [f"--steps={steps}", f"--threads={args.threads}"]
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(run([os.path.join(args.build, "benchmarks", "training_bench")] + flags))
        theirs.append(run([args.python, os.path.join(here, "torch_gpt.py")] + flags))
    middle = lambda results, key: statistics.median(r[key] for r in results)
    ratio = statistics.median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(ours, theirs))
    mib = lambda results: middle(results, "peak_rss_bytes") / 2**20
    version = theirs[0]["torch"]
    print(f"| {title} | {middle(ours, 'tokens_per_second'):.0f} | {middle(theirs, 'tokens_per_second'):.0f} | {ratio:.2f} "
          f"| {100 * middle(ours, 'flops_utilization'):.0f} % | {mib(ours):.0f} | {mib(theirs):.0f} | {mib(ours) / mib(theirs):.2f} |",
          flush=True)
print(f"\nPyTorch {version}, {args.threads} threads, fp32, {args.rounds} rounds in turn.")

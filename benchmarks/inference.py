#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Inference, tenon beside llama.cpp: the same file, the same threads, in turn in one run.

usage: inference.py MODEL.gguf [--build build/release] [--python PYTHON_WITH_LLAMA_CPP] [--rounds 2]
                    [--threads 1 2] [--new-tokens 64]

Prints a Markdown table of tokens/s (medians over rounds) and ratios. llama.cpp comes as the Python package
llama-cpp-python (`pip install llama-cpp-python` compiles it for this machine) and is called through its C functions:
a call is one llama_decode, for which Python does nothing. Random tokens are fed to it and no token is drawn, where
bench_infer takes the likeliest one each time. Steps of generation are timed one by one, and the median counts.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

PROMPT, SHORT = 512, 16  # as bench_infer has them
BATCHES = (1, 4, 16, 64)


def llama(model, threads, steps):
    """What llama.cpp does, as the JSON of bench_infer has it."""
    import ctypes

    import llama_cpp.llama_cpp as c

    quiet = c.llama_log_callback(lambda level, text, data: None)
    c.llama_log_set(quiet, ctypes.c_void_p(0))
    c.llama_backend_init()
    start = time.perf_counter()
    loaded = c.llama_model_load_from_file(model.encode(), c.llama_model_default_params())
    if not loaded:
        sys.exit(f"inference.py: llama.cpp cannot read {model}. Fix: a GGUF file that it knows.")
    words = c.llama_vocab_n_tokens(c.llama_model_get_vocab(loaded))
    draw = random.Random(1).randrange

    def context(sequences, tokens, batch):
        p = c.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = tokens, batch, min(batch, 512), sequences
        p.n_threads = p.n_threads_batch = threads
        p.kv_unified = sequences == 1
        made = c.llama_init_from_model(loaded, p)
        if not made:
            sys.exit(f"inference.py: llama.cpp makes no context of {sequences} sequences, {tokens} tokens.")
        return made

    def decode(ctx, sequences, begin, count):
        """Tokens [begin, begin + count) of each sequence; logits of the last. Seconds of llama_decode."""
        b = c.llama_batch_init(sequences * count, 0, 1)
        b.n_tokens = sequences * count
        for i in range(b.n_tokens):
            b.token[i], b.pos[i], b.n_seq_id[i] = draw(words), begin + i % count, 1
            b.seq_id[i][0], b.logits[i] = i // count, i % count == count - 1
        begun = time.perf_counter()
        if c.llama_decode(ctx, b):
            sys.exit("inference.py: llama_decode failed")
        c.llama_synchronize(ctx)
        seconds = time.perf_counter() - begun
        c.llama_batch_free(b)
        return seconds

    ctx = context(1, PROMPT + 8, PROMPT)
    loading = time.perf_counter() - start
    decode(ctx, 1, 0, SHORT)
    first = time.perf_counter() - start
    prefill = []
    for _ in range(3):
        c.llama_memory_clear(c.llama_get_memory(ctx), True)
        prefill.append(decode(ctx, 1, 0, PROMPT))
    c.llama_free(ctx)
    generation = []
    for batch in BATCHES:
        each = SHORT + steps
        ctx = context(batch, batch * (-(-each // 256) * 256), max(PROMPT, batch * SHORT))
        decode(ctx, batch, 0, SHORT)
        seconds = statistics.median(decode(ctx, batch, at, 1) for at in range(SHORT, each))
        generation.append({"batch": batch, "tokens_per_second": batch / seconds})
        c.llama_free(ctx)
    print(json.dumps({"load_seconds": loading, "first_token_seconds": first, "decode": generation,
                      "prefill_tokens_per_second": PROMPT / statistics.median(prefill)}))


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        fix = "\nFix: pip install llama-cpp-python, or --python NAME with an interpreter that has it."
        sys.exit(f"inference.py: {' '.join(command)} failed:\n{done.stderr}"
                 f"{fix if 'No module named' in done.stderr else ''}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file, e.g. of tests/fetch_models.py gemma")
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64, help="steps of generation that are timed")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--llama", action="store_true", help=argparse.SUPPRESS)  # one run of llama.cpp
    args = parser.parse_args()
    if args.llama:
        return llama(args.model, args.threads[0], args.new_tokens)

    what = {"first token of a short prompt, 1/s": lambda r: 1 / r["first_token_seconds"],
            f"prefill of {PROMPT}": lambda r: r["prefill_tokens_per_second"]}
    for place, batch in enumerate(BATCHES):
        what[f"decode, {batch} together"] = lambda r, place=place: r["decode"][place]["tokens_per_second"]
    print("| threads | | tenon tokens/s | llama.cpp tokens/s | ratio |\n| --- | --- | --- | --- | --- |")
    shares = []
    for threads in args.threads:
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(run([os.path.join(args.build, "examples", "bench_infer"), "--model", args.model, "--threads",
                             str(threads), "--prompt-tokens", str(PROMPT), "--new-tokens", str(args.new_tokens), "--batches",
                             ",".join(map(str, BATCHES)), "--json"]))
            theirs.append(run([args.python, os.path.abspath(__file__), args.model, "--llama", "--threads",
                               str(threads), "--new-tokens", str(args.new_tokens)]))
        for title, value in what.items():
            a, b = (statistics.median(map(value, side)) for side in (ours, theirs))
            ratio = statistics.median(value(x) / value(y) for x, y in zip(ours, theirs))
            print(f"| {threads} | {title} | {a:.1f} | {b:.1f} | {ratio:.2f} |", flush=True)
        middle = lambda key: statistics.median(r[key] for r in ours)
        shares.append(f"{threads} threads: decode of one reads {100 * middle('decode_share_of_read_bandwidth'):.0f} % of "
                      f"{middle('read_bandwidth') / 1e9:.1f} GB/s, prefill makes "
                      f"{100 * middle('prefill_share_of_fma_peak'):.0f} % of the fp32 FMA peak, loading takes "
                      f"{1e3 * middle('load_seconds'):.0f} ms, peak memory {middle('peak_rss_bytes') / 2**20:.0f} MiB")
    print("\n" + "\n".join(shares))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""Files that convert made, with and without --calibrate, in llama.cpp (the Python package llama-cpp-python).

A small random llama continues a text by the likeliest token each time. Given the same tokens, the log-probabilities of
llama.cpp may differ by what rounding activations to 8 bits does, of which each has its own way, and another token may be
likeliest only where those two are close.
"""
import ctypes
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

try:
    import llama_cpp.llama_cpp as c
except ImportError as missing:
    print(f"skipped: llama-cpp-python not found ({missing})")
    sys.exit(77)

source = pathlib.Path(__file__).resolve().parent.parent.parent
programs = os.path.join(sys.argv[1], "examples")
if not all(os.path.exists(os.path.join(programs, p)) for p in ("generate", "convert")):
    print("skipped: generate and convert were not built: CLI11 or nlohmann_json was not found")
    sys.exit(77)
folder = os.path.join(sys.argv[1], "llama_cpp_test")
shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder)
TOKENS, LIKELIEST = 64, 100
LEAST_COSINE, FARTHEST = 0.995, 0.2  # mean over places; of the logits of the likeliest tokens, less their mean


def run(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=200).stdout


def logits(file, tokens, first):
    """What llama.cpp says follows each of the tokens from the place `first` on."""
    model = c.llama_model_load_from_file(file.encode(), c.llama_model_default_params())
    assert model, f"llama.cpp does not read {file}"
    size = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    params = c.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    context = c.llama_init_from_model(model, params)
    batch = c.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, i >= first
    assert c.llama_decode(context, batch) == 0
    rows = [c.llama_get_logits_ith(context, i)[:size] for i in range(first, len(tokens))]
    c.llama_batch_free(batch)
    c.llama_free(context)
    c.llama_model_free(model)
    return rows


def cosine(a, b):
    a, b = ([x - sum(v) / len(v) for x in v] for v in (a, b))
    return sum(map(float.__mul__, a, b)) / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


silence = c.llama_log_callback(lambda level, text, data: None)
c.llama_log_set(silence, ctypes.c_void_p(0))
c.llama_backend_init()
model, text = os.path.join(folder, "model"), source / "LICENSE"
run(sys.executable, source / "benchmarks" / "random_llama.py", "tiny", model)
prompt = text.read_text(encoding="utf-8")[2000:2200]
for kind in ("f32", "q8_0", "q4_0", "q4_k", "q6_k", "q4_0 calibrated", "q4_k calibrated", "q6_k calibrated"):
    file = os.path.join(folder, kind.replace(" ", "_") + ".gguf")
    run(os.path.join(programs, "convert"), model, file, "--type", kind.split()[0], "--quiet",
        *(["--calibrate", text] if "calibrated" in kind else []))
    ours = json.loads(run(os.path.join(programs, "generate"), "--model", file, "--prompt", prompt, "--max-tokens",
                          str(TOKENS), "--temperature", "0", "--json", "--logprobs", str(LIKELIEST)))
    given, new = ours["prompt_token_ids"], ours["token_ids"]
    theirs = logits(file, given + new[:-1], len(given) - 1)
    cosines = [cosine([t["logprob"] for t in entry["top"]], [row[t["id"]] for t in entry["top"]])
               for entry, row in zip(ours["logprobs"], theirs, strict=True)]
    behind = [max(row) - row[token] for row, token in zip(theirs, new, strict=True)]
    equal = sum(b == 0 for b in behind)
    mean = sum(cosines) / len(cosines)
    print(f"{kind:15} cosine {mean:.6f}, {min(cosines):.6f} at least, {equal} of {len(new)} tokens are the likeliest of both, "
          f"the others lie at most {max(behind):.3f} behind", flush=True)
    assert len(new) == TOKENS and mean > LEAST_COSINE and max(behind) < FARTHEST

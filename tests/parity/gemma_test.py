# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""Gemma 3 270M, quantized to 4 to 8 bits, against the same weights in float32 in PyTorch.

usage: gemma_test.py BUILD_FOLDER [PROMPTS]

generate continues prompts of text, code, digits and many scripts, and one that is longer than the window of most
layers, by the likeliest token each time. Given the same tokens, its log-probabilities may differ from the float ones by
what rounding activations to 8 bits does, and another token may be likeliest only where those two are close. By default
6 prompts, at most 21: the long one is the first.
"""
import json
import os
import pathlib
import subprocess
import sys

try:
    import gguf
    import torch
    from reference_models import log_probabilities, read_gemma_gguf
except ImportError as missing:
    print(f"skipped: PyTorch or gguf not found ({missing})")
    sys.exit(77)

source = pathlib.Path(__file__).resolve().parent.parent.parent
model = pathlib.Path(os.environ.get("TENON_MODELS") or source / "build" / "models") / "gemma-3-270m-q4_k_m.gguf"
if not model.is_file():
    print(f"skipped: no model {model}. Fix: tests/fetch_models.py gemma")
    sys.exit(77)
generate = os.path.join(sys.argv[1], "examples", "generate")
if not os.path.exists(generate):
    print("skipped: generate was not built: CLI11 or nlohmann_json was not found")
    sys.exit(77)

TOKENS, LIKELIEST = 64, 20
PROMPTS = [
    (source / "LICENSE").read_text(encoding="utf-8")[:4000], "The capital of France is",
    "def fibonacci(n):\n    ", "日本の首都は", "1, 2, 3, 4, 5, 6,", "Москва является столицей",
    "Once upon a time, in a small village by the sea,", "#include <iostream>\n\nint main() {\n", "3.14159265358979",
    "Die Hauptstadt von Deutschland ist", "Le chat est assis sur", "中国的首都是", "عاصمة مصر هي", "भारत की राजधानी",
    "대한민국의 수도는", "Η πρωτεύουσα της Ελλάδας είναι", "SELECT name, age FROM users WHERE",
    "Water boils at a temperature of", '{"name": "Alice", "age": 30,', "The quick brown fox",
    "2024-01-01 2024-01-02 2024-01-03"]
MEAN_ERROR, LARGEST_ERROR = 0.1, 1.0  # of the log-probabilities of the likeliest tokens
shape, weights = read_gemma_gguf(model)
errors, equal = [], 0
for prompt in PROMPTS[:int(sys.argv[2]) if len(sys.argv) > 2 else 6]:
    result = json.loads(subprocess.run(
        [generate, "--model", model, "--prompt", prompt, "--max-tokens", str(TOKENS), "--temperature", "0", "--json",
         "--logprobs", str(LIKELIEST)], stdout=subprocess.PIPE, check=True, timeout=250).stdout)
    given, new = result["prompt_token_ids"], result["token_ids"]
    expected = log_probabilities(shape, weights, given + new[:-1], len(given) - 1)
    top = [entry["top"] for entry in result["logprobs"]]
    ours = torch.tensor([[t["logprob"] for t in row] for row in top])
    error = (ours - expected.gather(1, torch.tensor([[t["id"] for t in row] for row in top]))).abs()
    errors.append(error)
    # How much likelier than our token the likeliest one of the reference is.
    gaps = expected.max(-1).values - expected.gather(1, torch.tensor(new)[:, None])[:, 0]
    others = gaps.nonzero()[:, 0].tolist()
    equal += not others
    print(f"{len(given):4} + {len(new)} tokens, error: mean {error.mean():.3f}, largest {error.max():.3f}; " +
          ("the same text" if not others else "others likeliest at " +
           ", ".join(f"{i} (by {gaps[i]:.3f}, error {error[i].max():.3f})" for i in others)), flush=True)
    assert len(top) == len(new) and all(len(row) == LIKELIEST for row in top)
    assert (gaps <= 2 * error.max(-1).values).all(), "a token that is not likeliest, beyond what rounding explains"
all_errors = torch.cat(errors)
print(f"{equal} of {len(errors)} texts are those of the reference; error: mean {all_errors.mean():.4f}, "
      f"largest {all_errors.max():.3f}")
assert all_errors.mean() < MEAN_ERROR and all_errors.max() < LARGEST_ERROR

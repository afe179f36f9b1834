# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""embed on the published all-MiniLM-L6-v2 against PyTorch in float64, and on what convert makes of it."""
import json
import os
import pathlib
import subprocess
import sys

try:
    import torch
    from reference_models import embedding, read_safetensors
except ImportError as missing:
    print(f"skipped: PyTorch not found ({missing})")
    sys.exit(77)

source = pathlib.Path(__file__).resolve().parent.parent.parent
model = pathlib.Path(os.environ.get("TENON_MODELS") or source / "build" / "models") / "all-MiniLM-L6-v2"
if not model.is_dir():
    print(f"skipped: no model {model}. Fix: tests/fetch_models.py minilm")
    sys.exit(77)
build = pathlib.Path(sys.argv[1])
if not (build / "examples" / "embed").exists():
    print("skipped: embed was not built: CLI11 or nlohmann_json was not found")
    sys.exit(77)

TEXTS = ["A man is eating food.", "A man eats a piece of bread.", "The girl is carrying a baby.", "x",
         "Der Zapfen paßt in das Loch.", "日本の首都は東京です。", "Москва является столицей", "def f(n): return n + 1",
         (source / "LICENSE").read_text(encoding="utf-8")[:900]]


def program(name, *words):
    return subprocess.run([build / "examples" / name, *map(str, words)], stdout=subprocess.PIPE, check=True,
                          timeout=100).stdout


shape = json.loads((model / "config.json").read_text())
weights = {n: t.double() for n, t in read_safetensors(model / "model.safetensors").items()}
tokens = [json.loads(program("tokenize", "--model", model / "tokenizer.json", "--text", t, "--json"))["token_ids"]
          for t in TEXTS]
expected = torch.stack([embedding(shape, weights, t, "mean") for t in tokens])
small = build / "minilm_test.gguf"
program("convert", model, small, "--type", "q8_0", "--quiet")
for file, least in ((model, 0.9999999), (small, 0.998)):
    result = json.loads(program("embed", "--model", file, "--json", *(w for t in TEXTS for w in ("--text", t))))
    ours = torch.tensor(result["embeddings"]).double()
    cosines = (ours * expected).sum(-1)
    print(f"{file.name}: 1 - cosine with the reference at most {float(1 - cosines.min()):.1e}")
    assert result["tokens"] == [len(t) for t in tokens]
    assert cosines.min() > least and (ours.norm(dim=-1) - 1).abs().max() < 1e-6, cosines

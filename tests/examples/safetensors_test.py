# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: LABELS parity
"""The safetensors package opens every shard that the ranks of a mesh wrote, and finds in them, by the index, the model
that one rank writes."""
import json
import os
import shutil
import subprocess
import sys

try:
    import numpy  # noqa: F401
    from safetensors import safe_open
except ImportError:
    sys.exit(print("skipped: no packages safetensors and numpy for this Python") or 77)

programs = os.path.join(sys.argv[1], "examples")
folder = os.path.join(sys.argv[1], "safetensors_test")
shutil.rmtree(folder, ignore_errors=True)
text = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")


def train(name, *mesh):
    subprocess.run([os.path.join(programs, "train_gpt_threads"), "--model", "gpt-mesh", "--context", "16", "--batch", "8",
                    "--text", text, "--steps", "1", "--json", "--out", os.path.join(folder, name), *mesh], check=True,
                   capture_output=True)
    return os.path.join(folder, name, "step-00000001")


def tensors(step, kind):
    """Name to shape and values, of all files of a kind."""
    found = {}
    for name in sorted(os.listdir(step)):
        if name.startswith(kind) and name.endswith(".safetensors"):
            with safe_open(os.path.join(step, name), framework="np") as file:
                for key in file.keys():
                    assert key not in found, key
                    found[key] = (name, file.get_tensor(key))
    return found


one, four = train("one"), train("four", "--mesh", "data=2,tensor=2", "--accumulate", "2", "--zero", "1")
with open(os.path.join(four, "model.safetensors.index.json")) as file:
    index = json.load(file)
for kind in ("model", "optimizer"):
    alone, shards = tensors(one, kind), tensors(four, kind)
    assert alone.keys() == shards.keys() and len({name for name, _ in shards.values()}) == 4, shards.keys()
    for key, (name, values) in shards.items():
        assert (values == alone[key][1]).all() and values.shape == alone[key][1].shape, key
        assert kind != "model" or index["weight_map"][key] == name, key
print(f"{len(index['weight_map'])} tensors in 4 shards, as one rank writes them")

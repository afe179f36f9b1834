# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""convert: folders of each architecture to GGUF and back, to the bit; quantized types and their fallbacks; a checkpoint
of train_gpt; and what is refused. The Python package gguf reads the files too where it is installed."""
import array
import json
import os
import random
import shutil
import struct
import subprocess
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import safetensors_io

programs = os.path.join(sys.argv[1], "examples")
convert = os.path.join(programs, "convert")
if not os.path.exists(convert):
    print("skipped: convert was not built: CLI11 or nlohmann_json was not found")
    sys.exit(77)
folder = os.path.join(sys.argv[1], "convert_test")
shutil.rmtree(folder, ignore_errors=True)
os.mkdir(folder)
random.seed(5)
try:
    import gguf
except ImportError:
    gguf = None
print("the Python package gguf:", "found" if gguf else "not found")


def path(*names):
    return os.path.join(folder, *names)


def run(*words):
    return subprocess.run([convert, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=250)


def converted(*words):
    result = run(*words, "--json")
    assert result.returncode == 0, (words, result.stderr)
    return json.loads(result.stdout)


def refused(expected, *words):
    result = run(*words)
    line = result.stderr.rstrip("\n")
    print(line)
    assert result.returncode == 1 and line.startswith("convert: ") and "\n" not in line, (words, result)
    assert expected in line and "Fix: " in line, (words, expected)


def numbers(*shape):
    count = 1
    for size in shape:
        count *= size
    return list(shape), array.array("f", [random.gauss(0, 0.1) for _ in range(count)])


def write_safetensors(file, tensors, dtype="F32"):
    def content(values):
        all32 = values.tobytes()
        return all32 if dtype == "F32" else b"".join(all32[i + 2:i + 4] for i in range(0, len(all32), 4))

    safetensors_io.write(file, {n: (dtype, shape, content(values)) for n, (shape, values) in tensors.items()})


def read_safetensors(file):
    return safetensors_io.read(file)[0]


BLOCKS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 8: ("Q8_0", 32, 34), 6: ("Q5_0", 32, 22),
          12: ("Q4_K", 256, 144), 14: ("Q6_K", 256, 210), 2: ("Q4_0", 32, 18)}


def read_gguf(file):
    """Metadata; and per tensor the type, the shape (row length last) and the bytes."""
    with open(file, "rb") as source:
        data = source.read()
    at = 4

    def number(code):
        nonlocal at
        value = struct.unpack_from("<" + code, data, at)[0]
        at += struct.calcsize(code)
        return value

    def text():
        nonlocal at
        length = number("Q")
        at += length
        return data[at - length:at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            element = number("I")
            return [value(element) for _ in range(number("Q"))]
        return number("BbHhIif?__Qqd"[kind])

    assert data[:4] == b"GGUF" and number("I") == 3
    tensors, keys = number("Q"), number("Q")
    metadata = {text(): value(number("I")) for _ in range(keys)}
    infos = [(text(), [number("Q") for _ in range(number("I"))][::-1], number("I"), number("Q")) for _ in range(tensors)]
    begin = (at + 31) // 32 * 32
    out = {}
    for name, shape, kind, offset in infos:
        label, values, size = BLOCKS[kind]
        count = size
        for s in shape:
            count *= s
        out[name] = (label, shape, data[begin + offset:begin + offset + count // values])
    if gguf:
        reader = gguf.GGUFReader(file)
        assert {t.name: t.tensor_type.name for t in reader.tensors} == {n: t[0] for n, t in out.items()}
        assert all(t.data.tobytes() == out[t.name][2] for t in reader.tensors)
    return metadata, out


def llama_like(layers, width, hidden, heads, kv_heads, head_dim, vocabulary, norms, bias=False):
    t = {"model.embed_tokens.weight": numbers(vocabulary, width), "model.norm.weight": numbers(width)}
    for i in range(layers):
        p = f"model.layers.{i}."
        for name, rows in (("q", heads * head_dim), ("k", kv_heads * head_dim), ("v", kv_heads * head_dim)):
            t[p + f"self_attn.{name}_proj.weight"] = numbers(rows, width)
            if bias:
                t[p + f"self_attn.{name}_proj.bias"] = numbers(rows)
        t[p + "self_attn.o_proj.weight"] = numbers(width, heads * head_dim)
        for name in ("gate", "up"):
            t[p + f"mlp.{name}_proj.weight"] = numbers(hidden, width)
        t[p + "mlp.down_proj.weight"] = numbers(width, hidden)
        for name in norms:
            t[p + name + ".weight"] = numbers(head_dim if name.startswith("self_attn") else width)
    return t


def write_model(name, config, tensors, **more):
    os.mkdir(path(name))
    with open(path(name, "config.json"), "w") as out:
        json.dump(config, out)
    write_safetensors(path(name, "model.safetensors"), tensors, **more)
    return path(name)


SHAPE = {"max_position_embeddings": 128, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96,
         "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 5e5, "vocab_size": 40,
         "bos_token_id": 1, "eos_token_id": [2, 3]}
TWO = ["input_layernorm", "post_attention_layernorm"]
QK = ["self_attn.q_norm", "self_attn.k_norm"]
llama = llama_like(2, 64, 96, 4, 2, 16, 40, TWO)
llama["lm_head.weight"] = numbers(40, 64)
gpt2 = {"wte.weight": numbers(40, 32), "wpe.weight": numbers(16, 32), "ln_f.weight": numbers(32), "ln_f.bias": numbers(32)}
for i in range(2):
    for name, rows, cols in (("attn.c_attn", 32, 96), ("attn.c_proj", 32, 32), ("mlp.c_fc", 32, 128),
                             ("mlp.c_proj", 128, 32)):
        gpt2[f"h.{i}.{name}.weight"], gpt2[f"h.{i}.{name}.bias"] = numbers(rows, cols), numbers(cols)
    for name in ("ln_1", "ln_2"):
        gpt2[f"h.{i}.{name}.weight"], gpt2[f"h.{i}.{name}.bias"] = numbers(32), numbers(32)
GPT2 = {"model_type": "gpt2", "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4, "layer_norm_epsilon": 1e-5,
        "vocab_size": 40}
models = {
    "llama": (dict(SHAPE, model_type="llama"), llama),
    "qwen2": (dict(SHAPE, model_type="qwen2"), llama_like(2, 64, 96, 4, 2, 16, 40, TWO, bias=True)),
    "qwen3": (dict(SHAPE, model_type="qwen3", head_dim=32), llama_like(2, 64, 96, 4, 2, 32, 40, TWO + QK)),
    "gemma3": (dict(SHAPE, model_type="gemma3_text", head_dim=32, sliding_window=16), llama_like(
        2, 64, 96, 4, 2, 32, 40, TWO + QK + ["pre_feedforward_layernorm", "post_feedforward_layernorm"])),
    "gpt2": (GPT2, gpt2),
}
for name, (config, tensors) in models.items():
    source = write_model(name, config, tensors)
    summary = converted(source, path(name + ".gguf"), "--type", "f32")
    assert summary["tensors"] == len(tensors) and summary["types"] == {"F32": len(tensors)}, summary
    metadata, made = read_gguf(path(name + ".gguf"))
    assert metadata["general.architecture"] == name and metadata["general.file_type"] == 0, metadata
    converted(path(name + ".gguf"), path(name + "-back"))
    back = read_safetensors(path(name + "-back", "model.safetensors"))
    assert set(back) == set(tensors), set(back) ^ set(tensors)
    for tensor, (shape, values) in tensors.items():
        dtype, found, content = back[tensor]
        assert (dtype, found) == ("F32", shape), tensor
        if name == "gemma3" and "norm" in tensor:  # 1 was added and taken away again: each a rounding
            got = array.array("f", content)
            assert all(abs(a - b) <= 2e-7 for a, b in zip(got, values)), tensor
        else:
            assert content == values.tobytes(), tensor
    found = json.load(open(path(name + "-back", "config.json")))
    for key, value in config.items():
        if key not in ("bos_token_id", "eos_token_id"):  # they come with a tokenizer
            assert (abs(found[key] - value) <= 1e-6 * value if isinstance(value, float) else found[key] == value), key
    print(name, "to GGUF and back")

# What differs between the two kinds of file.
metadata, made = read_gguf(path("llama.gguf"))
row = lambda content, r, n: content[4 * n * r:4 * n * (r + 1)]
q, k = (llama[f"model.layers.1.self_attn.{n}_proj.weight"][1].tobytes() for n in "qk")
for head, i, half in ((0, 3, 0), (2, 5, 1), (3, 7, 1)):
    assert row(made["blk.1.attn_q.weight"][2], 16 * head + 2 * i + half, 64) == row(q, 16 * head + 8 * half + i, 64)
assert row(made["blk.1.attn_k.weight"][2], 16 + 2 * 5 + 1, 64) == row(k, 16 + 8 + 5, 64)
assert metadata["llama.attention.head_count_kv"] == 2 and metadata["llama.rope.dimension_count"] == 16, metadata
assert abs(metadata["llama.rope.freq_base"] - 5e5) < 1 and metadata["general.name"] == "llama", metadata
metadata, made = read_gguf(path("gemma3.gguf"))
norm, stored = models["gemma3"][1]["model.norm.weight"][1], array.array("f", made["output_norm.weight"][2])
assert all(abs(s - 1 - n) < 2e-7 for s, n in zip(stored, norm))
assert metadata["gemma3.attention.sliding_window"] == 16 and metadata["gemma3.attention.key_length"] == 32, metadata
_, made = read_gguf(path("gpt2.gguf"))
content, values = array.array("f", made["blk.0.attn_qkv.weight"][2]), gpt2["h.0.attn.c_attn.weight"][1]
assert made["blk.0.attn_qkv.weight"][1] == [96, 32] and content[32 * 5 + 7] == values[96 * 7 + 5]

# Shards of BF16, which go into GGUF as they are; and the types of a quantized file.
os.mkdir(path("shards"))
shutil.copy(path("qwen2", "config.json"), path("shards"))
big = llama_like(1, 256, 288, 4, 2, 64, 64, TWO, bias=True)
names = sorted(big)
for part, chosen in (("a.safetensors", names[:5]), ("b.safetensors", names[5:])):
    write_safetensors(path("shards", part), {n: big[n] for n in chosen}, dtype="BF16")
index = {n: "a.safetensors" if n in names[:5] else "b.safetensors" for n in names}
json.dump({"metadata": {}, "weight_map": index}, open(path("shards", "model.safetensors.index.json"), "w"))
config = dict(SHAPE, model_type="qwen2", hidden_size=256, num_hidden_layers=1, intermediate_size=288)
json.dump(config, open(path("shards", "config.json"), "w"))
converted(path("shards"), path("bf16.gguf"), "--type", "bf16")
_, made = read_gguf(path("bf16.gguf"))
up = big["model.layers.0.mlp.up_proj.weight"][1].tobytes()
assert made["blk.0.ffn_up.weight"] == ("BF16", [288, 256], b"".join(up[i + 2:i + 4] for i in range(0, len(up), 4)))
assert made["blk.0.attn_q.bias"][0] == made["output_norm.weight"][0] == "F32"
converted(path("bf16.gguf"), path("q4.gguf"), "--type", "Q4_K")
assert "BF16 -> Q4_K\n" in run(path("bf16.gguf"), path("told.gguf"), "--type", "q4_k").stdout
metadata, made = read_gguf(path("q4.gguf"))
types = {n: t[0] for n, t in made.items()}
assert types["token_embd.weight"] == "Q6_K" and types["blk.0.attn_q.weight"] == "Q4_K", types
assert types["blk.0.ffn_down.weight"] == "Q5_0" and types["blk.0.ffn_norm.weight"] == "F32", types  # rows of 288
assert metadata["general.file_type"] == 14 and metadata["qwen2.block_count"] == 1, metadata
converted(path("shards"), path("direct.gguf"), "--type", "q4_k", "--threads", "1")
converted(path("shards"), path("again.gguf"), "--type", "q4_k", "--threads", "3")
assert open(path("direct.gguf"), "rb").read() == open(path("again.gguf"), "rb").read()
assert read_gguf(path("direct.gguf"))[1] == made
converted(path("q4.gguf"), path("halves"), "--type", "f16")
assert read_safetensors(path("halves", "model.safetensors"))["model.layers.0.mlp.up_proj.weight"][:2] == ("F16", [288, 256])

# Tokenizers: BPE of bytes, and with byte fallback.
bpe = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
       "added_tokens": [{"id": 3, "content": "<eos>", "special": True}, {"id": 4, "content": "<x>", "special": False}]}
json.dump(bpe, open(path("llama", "tokenizer.json"), "w"))
converted(path("llama"), path("t.gguf"), "--type", "q8_0")
m, _ = read_gguf(path("t.gguf"))
assert m["tokenizer.ggml.model"] == "gpt2" and m["tokenizer.ggml.pre"] == "gpt-2" and m["tokenizer.ggml.merges"] == ["a b"]
assert m["tokenizer.ggml.tokens"][:6] == ["a", "b", "ab", "<eos>", "<x>", "[PAD5]"] and len(m["tokenizer.ggml.tokens"]) == 40
assert m["tokenizer.ggml.token_type"][:6] == [1, 1, 1, 3, 4, 5]
assert m["tokenizer.ggml.bos_token_id"] == 1 and m["tokenizer.ggml.eos_token_id"] == 2
bpe["model"].update(byte_fallback=True, vocab={"a": 0, "b": 1, "ab": 2, "<0x0A>": 5, "abb": 6}, merges=[["a", "b"], ["ab", "b"]])
json.dump(bpe, open(path("llama", "tokenizer.json"), "w"))
converted(path("llama"), path("t.gguf"), "--type", "q8_0")
m, _ = read_gguf(path("t.gguf"))
assert m["tokenizer.ggml.model"] == "llama" and m["tokenizer.ggml.token_type"][5] == 6
assert m["tokenizer.ggml.scores"][2] == 0 and m["tokenizer.ggml.scores"][6] == -1 and m["tokenizer.ggml.scores"][0] == -1000
converted(path("llama"), path("t.gguf"), "--no-tokenizer")
assert "tokenizer.ggml.model" not in read_gguf(path("t.gguf"))[0]

# A checkpoint of train_gpt: matrices are [out, in] already, tokens are bytes.
train = os.path.join(programs, "train_gpt")
for model in ("gpt-tiny", "llama-tiny") if os.path.exists(train) else ():
    text = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")
    subprocess.run([train, "--model", model, "--text", text, "--steps", "1", "--sample-tokens", "0", "--json", "--out",
                    path(model)], check=True, stdout=subprocess.PIPE, timeout=200)
    (step,) = [n for n in os.listdir(path(model)) if n.startswith("step-")]
    converted(path(model, step), path(model + ".gguf"), "--type", "f32")
    metadata, made = read_gguf(path(model + ".gguf"))
    ours = read_safetensors(path(model, step, "model.safetensors"))
    assert len(made) == len(ours) and len(metadata["tokenizer.ggml.tokens"]) >= 256, metadata
    if model == "gpt-tiny":
        assert made["blk.0.ffn_up.weight"][1:] == ours["h.0.mlp.c_fc.weight"][1:]
        assert metadata["tokenizer.ggml.tokens"][ord("a")] == "a" and metadata["tokenizer.ggml.tokens"][32] == "\u0120"
    print("a checkpoint of", model, "to GGUF")
    # Rounded for the inputs of a text: other blocks of the same format in the layers, on any number of threads.
    for name, words in (("plain", ()), ("one", ("--calibrate", text, "--threads", "1")),
                        ("three", ("--calibrate", text, "--threads", "3"))):
        converted(path(model, step), path(name + ".gguf"), "--type", "q4_0", *words)
    assert open(path("one.gguf"), "rb").read() == open(path("three.gguf"), "rb").read()
    plain, other = (read_gguf(path(n + ".gguf"))[1] for n in ("plain", "one"))
    assert {n: t[:2] for n, t in plain.items()} == {n: t[:2] for n, t in other.items()}
    changed = {n for n in plain if plain[n][2] != other[n][2]}
    assert changed == {n for n in plain if n.startswith("blk.") and plain[n][0] == "Q4_0"} and len(changed) > 4, changed

# What is refused.
refused("see --help", path("llama"))
refused("--type", path("llama"), path("x.gguf"), "--type", "q9")
refused("none of safetensors", path("llama.gguf"), path("x"), "--type", "q8_0")
refused("is for matrices in blocks, not f16", path("llama"), path("x.gguf"), "--calibrate", path("none"))
refused("has no key 'tokenizer.ggml.model'", path("llama.gguf"), path("x.gguf"), "--type", "q8_0", "--calibrate", path("none"))
refused("safetensors already", path("llama"), path("x"))
refused("there is no such file", path("none"), path("x.gguf"))
refused("is not a GGUF file", path("llama", "config.json"), path("x.gguf"))
refused("tensor 'extra' is none of the weights",
        write_model("extra", dict(SHAPE, model_type="llama"), dict(llama, extra=numbers(2))), path("x.gguf"))
refused("model_type 't5'", write_model("t5", {"model_type": "t5"}, {"a": numbers(2)}), path("x.gguf"))
less = {k: v for k, v in dict(SHAPE, model_type="llama").items() if k != "hidden_size"}
refused("no number 'hidden_size'", write_model("shapeless", less, llama), path("x.gguf"))
refused("rope_scaling", write_model("scaled", dict(SHAPE, model_type="llama", rope_scaling={"type": "yarn"}), llama),
        path("x.gguf"))
refused("has no attention heads", write_model("headless", dict(SHAPE, model_type="llama", num_attention_heads=0), llama),
        path("x.gguf"))
refused("which does not fit the model", write_model("odd", dict(SHAPE, model_type="llama", num_attention_heads=7), llama),
        path("x.gguf"))
refused("lacks something", write_model("text", dict(SHAPE, model_type="llama", hidden_size="64"), llama), path("x.gguf"))
assert not os.path.exists(path("x.gguf")) and not os.path.exists(path("x"))
print("all is well")

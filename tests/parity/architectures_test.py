# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""generate against PyTorch in float64, on a small random model of each architecture: from a folder as Hugging Face has
it, and from the GGUF file that convert makes of it (Llama 3's scaled positions there need the Python package gguf)."""
import json
import os
import random
import shutil
import struct
import subprocess
import sys

try:
    import torch
    from reference_models import frequencies, log_probabilities, write_safetensors
except ImportError as missing:
    print(f"skipped: PyTorch not found ({missing})")
    sys.exit(77)
try:
    import gguf
except ImportError:
    gguf = None

programs = os.path.join(sys.argv[1], "examples")
if not all(os.path.exists(os.path.join(programs, p)) for p in ("generate", "convert")):
    print("skipped: generate and convert were not built: CLI11 or nlohmann_json was not found")
    sys.exit(77)
folder = os.path.join(sys.argv[1], "architectures_test")
shutil.rmtree(folder, ignore_errors=True)
TOLERANCE = 3e-5  # of how far log-probabilities spread
VOCABULARY = 96   # the characters that ASCII can print, and an end
random.seed(7)
torch.manual_seed(7)


def run(program, *words):
    result = subprocess.run([os.path.join(programs, program), *words], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, timeout=100)
    assert result.returncode == 0, (words, result.stderr)
    return result.stdout


def decoder_weights(s):
    """Spread so that attention looks somewhere and the halves of a layer weigh alike."""
    gemma, width, head = s["model_type"] == "gemma3_text", s["hidden_size"], s["head_dim"]
    matrix = lambda rows, cols: torch.randn(rows, cols) * 1.5 / cols ** 0.5
    norm = lambda size: torch.randn(size) * 0.2 + (not gemma)
    query, kv = s["num_attention_heads"] * head, s["num_key_value_heads"] * head
    w = {"model.embed_tokens.weight": torch.randn(VOCABULARY, width) * (0.1 if gemma else 1),
         "model.norm.weight": norm(width)}
    if not s["tie_word_embeddings"]:
        w["lm_head.weight"] = matrix(VOCABULARY, width)
    for i in range(s["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for n in ["input_layernorm", "post_attention_layernorm"] + ["pre_feedforward_layernorm",
                                                                    "post_feedforward_layernorm"] * gemma:
            w[f"{p}{n}.weight"] = norm(width)
        for n, rows in (("q", query), ("k", kv), ("v", kv)):
            w[f"{p}self_attn.{n}_proj.weight"] = matrix(rows, width)
            if s["model_type"] == "qwen2":
                w[f"{p}self_attn.{n}_proj.bias"] = torch.randn(rows)
        if gemma or s["model_type"].startswith("qwen3"):
            w.update({f"{p}self_attn.{n}_norm.weight": norm(head) for n in "qk"})
        w[p + "self_attn.o_proj.weight"] = matrix(width, query)
        hidden, gate, up, down = s["intermediate_size"], "gate_proj", "up_proj", "down_proj"
        blocks = [p + "mlp"]
        if "num_experts_per_tok" in s:
            if s["model_type"] == "mixtral":
                blocks, gate, up, down = [p + "block_sparse_moe"], "w1", "w3", "w2"
            count, hidden = s.get("num_local_experts", s.get("num_experts")), s.get("moe_intermediate_size", hidden)
            w[blocks[0] + ".gate.weight"] = matrix(count, width)
            blocks = [f"{blocks[0]}.experts.{e}" for e in range(count)]
        for block in blocks:
            w.update({f"{block}.{n}.weight": matrix(hidden, width) for n in (gate, up)})
            w[f"{block}.{down}.weight"] = matrix(width, hidden)
    return w


def gpt2_weights(s):
    width = s["n_embd"]
    w = {"wte.weight": torch.randn(VOCABULARY, width), "wpe.weight": torch.randn(s["n_positions"], width)}
    names = [("ln_f", None)]
    for i in range(s["n_layer"]):
        names += [(f"h.{i}.{n}", shape) for n, shape in (
            ("ln_1", None), ("ln_2", None), ("attn.c_attn", (width, 3 * width)), ("attn.c_proj", (width, width)),
            ("mlp.c_fc", (width, 4 * width)), ("mlp.c_proj", (4 * width, width)))]
    for name, shape in names:
        w[name + ".bias"] = torch.randn(shape[1] if shape else width) * 0.2
        w[name + ".weight"] = torch.randn(shape) * 1.5 / shape[0] ** 0.5 if shape else 1 + 0.2 * torch.randn(width)
    return w


def write_folder(path, shape, weights):
    os.makedirs(path)
    write_safetensors(os.path.join(path, "model.safetensors"), weights)
    vocabulary = {"Ġ" if i == 0 else chr(32 + i): i for i in range(VOCABULARY - 1)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": VOCABULARY - 1, "content": "<end>", "special": True, "normalized": False, "lstrip": False,
           "rstrip": False, "single_word": False}
    for name, content in (("config.json", shape), ("tokenizer.json", {
            "version": "1.0", "added_tokens": [end], "normalizer": None, "pre_tokenizer": byte_level,
            "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []}})):
        with open(os.path.join(path, name), "w", encoding="utf-8") as file:
            json.dump(content, file)


def add_rope_factors(path, shape):
    """Gives a GGUF file one more tensor: what llama.cpp makes of Llama 3's scaling."""
    plain, scaled = (frequencies(shape["head_dim"], shape["rope_theta"], s) for s in (None, shape["rope_scaling"]))
    factors = (plain / scaled).numpy().astype("<f4").tobytes()
    reader = gguf.GGUFReader(path)
    last = reader.tensors[-1].field
    end = last.offset + sum(part.nbytes for part in last.parts)
    with open(path, "rb") as file:
        old = file.read()
    padded = lambda content: content + bytes(-len(content) % 32)
    data, name = padded(old[reader.data_offset:]), b"rope_freqs.weight"
    info = struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, len(factors) // 4, 0, len(data))
    count = struct.pack("<Q", len(reader.tensors) + 1)
    os.remove(path)
    with open(path, "wb") as file:
        file.write(padded(old[:8] + count + old[16:end] + info) + data + padded(factors))


def difference(model, shape, weights):
    """What is between the log-probabilities of generate and those of PyTorch, given the same tokens."""
    prompt = "".join(chr(random.randrange(32, 127)) for _ in range(600))  # the engine reads it in two parts
    result = json.loads(run("generate", "--model", model, "--prompt", prompt, "--max-tokens", "40", "--temperature", "0",
                            "--logprobs", str(VOCABULARY), "--json"))
    assert result["prompt_tokens"] == len(prompt), result
    tokens = [ord(c) - 32 for c in prompt] + result["token_ids"]
    expected = log_probabilities(shape, {n: t.double() for n, t in weights.items()}, tokens[:-1], len(prompt) - 1)
    ours = torch.full_like(expected, float("nan"))
    for row, entry in zip(ours, result["logprobs"]):
        for other in entry["top"]:
            row[other["id"]] = other["logprob"]
    return (ours - expected).abs(), float(expected.std())


common = {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 6,
          "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
          "rope_theta": 1e4, "vocab_size": VOCABULARY, "tie_word_embeddings": False}
models = {
    "llama": {**common, "model_type": "llama", "rms_norm_eps": 1e-5},
    "mistral": {**common, "model_type": "mistral", "sliding_window": 70},
    "llama3": {**common, "model_type": "llama", "rope_theta": 5e5, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256}},
    "qwen2": {**common, "model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen3": {**common, "model_type": "qwen3", "head_dim": 32},
    "mixtral": {**common, "model_type": "mixtral", "num_local_experts": 11, "num_experts_per_tok": 2},
    "qwen3moe": {**common, "model_type": "qwen3_moe", "head_dim": 32, "intermediate_size": 999, "num_experts": 5,
                 "moe_intermediate_size": 64, "num_experts_per_tok": 3, "norm_topk_prob": True},
    "gemma3": {**common, "model_type": "gemma3_text", "tie_word_embeddings": True, "num_hidden_layers": 7,
               "head_dim": 32, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 70,
               "sliding_window_pattern": 6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "gpt2": {"model_type": "gpt2", "n_embd": 96, "n_layer": 3, "n_head": 6, "n_positions": 1024, "n_inner": None,
             "vocab_size": VOCABULARY, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
}
for name, shape in models.items():
    weights = gpt2_weights(shape) if name == "gpt2" else decoder_weights(shape)
    place = os.path.join(folder, name)
    write_folder(place, shape, weights)
    if name == "mixtral":
        kept = weights
    kinds = [place]
    if name != "llama3":
        kinds.append(place + ".gguf")
        run("convert", *kinds, "--type", "f32", "--quiet")
    elif gguf:  # convert refuses the scaling
        kinds.append(place + ".gguf")
        write_folder(place + "_plain", {**shape, "rope_scaling": None}, weights)
        run("convert", place + "_plain", place + ".gguf", "--type", "f32", "--quiet")
        add_rope_factors(place + ".gguf", shape)
    for model in kinds:
        errors, spread = difference(model, shape, weights)
        error = float(errors.max())
        print(f"{os.path.basename(model):14} largest difference {error:.1e}, log-probabilities spread by {spread:.2f}",
              flush=True)
        assert error < TOLERANCE * spread

# Experts in blocks of 8 bits. Now and then a token gets another expert than the exact one, and then all is different.
name, place = "mixtral", os.path.join(folder, "mixtral")
run("convert", place, place + "_8.gguf", "--type", "q8_0", "--quiet")
errors, _ = difference(place + "_8.gguf", models[name], kept)
print(f"{name}_8.gguf: median of the differences {float(errors.median()):.2f}")
assert errors.median() < 0.2
back = subprocess.run([os.path.join(programs, "convert"), place + "_8.gguf", place + "_back"], text=True,
                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
assert back.returncode == 1 and "is a mixture of experts, which goes to gguf only" in back.stderr, back

# What these models do not do is not left out silently.
for name, change, expected in (
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "scales its rotary positions by 'yarn'"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "without the number 'low_freq_factor'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0.0}}, "scales its rotary positions by 0"),
        ("llama", {"hidden_act": "gelu"}, "has the hidden_act 'gelu'"),
        ("llama", {"partial_rotary_factor": 0.5}, "turns a part of each head only"),
        ("llama", {"query_pre_attn_scalar": 168}, "scales queries by another number than their width"),
        ("llama", {"use_sliding_window": True, "max_window_layers": 2}, "has a sliding window in some layers"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "has other layers with a window"),
        ("mixtral", {"num_local_experts": 12}, "has the shape [11, 96], but [12, 96] is expected"),
        ("mixtral", {"num_experts_per_tok": 12}, "experts_per_token is not between 1 and experts"),
        ("qwen3moe", {"norm_topk_prob": False}, "weighs experts by numbers whose sum is not 1")):
    with open(os.path.join(folder, name, "config.json"), "w", encoding="utf-8") as file:
        json.dump({**models[name], **change}, file)
    result = subprocess.run([os.path.join(programs, "generate"), "--model", os.path.join(folder, name), "--prompt",
                             "a"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)
    print(result.stderr.strip())
    assert result.returncode == 1 and expected in result.stderr and "Fix: " in result.stderr, (change, result)

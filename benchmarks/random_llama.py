#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes a folder as Hugging Face has it with a llama of random weights in BF16, for measuring what no file is at hand
for.

usage: random_llama.py SHAPE FOLDER

SHAPE is 135m (as SmolLM-135M has it), 1.1b (as TinyLlama has it) or tiny (for tests). convert makes GGUF files of the
folder. Tokens are the bytes and fillers. Weights repeat after 2^18, which makes them quickly.
"""
import json
import math
import os
import random
import struct
import sys

SHAPES = {  # layers, width, width in the middle, heads, heads of keys and values, vocabulary, tied
    "tiny": (2, 256, 512, 4, 2, 300, False),
    "135m": (30, 576, 1536, 9, 3, 49152, True),
    "1.1b": (22, 2048, 5632, 32, 4, 32000, False),
}
MERGED = "ĠĠ"  # llama.cpp wants at least one merge


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    layers, width, middle, heads, kv_heads, vocabulary, tied = SHAPES[sys.argv[1]]
    kv = width // heads * kv_heads
    tensors = {"model.embed_tokens": (vocabulary, width), "model.norm": (width,)}
    if not tied:
        tensors["lm_head"] = (vocabulary, width)
    for i in range(layers):
        for name, *shape in (("input_layernorm", width), ("post_attention_layernorm", width),
                             ("self_attn.q_proj", width, width), ("self_attn.k_proj", kv, width),
                             ("self_attn.v_proj", kv, width), ("self_attn.o_proj", width, width),
                             ("mlp.gate_proj", middle, width), ("mlp.up_proj", middle, width),
                             ("mlp.down_proj", width, middle)):
            tensors[f"model.layers.{i}.{name}"] = tuple(shape)
    random.seed(1)
    normal = [random.gauss(0, 1) for _ in range(1 << 18)]
    bf16 = lambda values: b"".join(struct.pack("<f", v)[2:] for v in values)
    numbers = {cols: bf16(v / math.sqrt(cols) for v in normal) for cols in (width, middle)}
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name + ".weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    os.makedirs(sys.argv[2])
    with open(os.path.join(sys.argv[2], "model.safetensors"), "wb") as file:
        text = json.dumps(header).encode()
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in tensors.values():
            if len(shape) == 1:
                file.write(bf16([1]) * shape[0])
                continue
            block, left = numbers[shape[1]], 2 * math.prod(shape)
            begin = 2 * random.randrange(len(block) // 2)
            block = block[begin:] + block[:begin]  # other numbers in each matrix
            for at in range(0, left, len(block)):
                file.write(block[:left - at])
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
              "intermediate_size": middle, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "tie_word_embeddings": tied,
              "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
              "bos_token_id": 0, "eos_token_id": 0}
    # The letters that GPT-2 spells bytes with: those that can be seen stand for themselves, the others follow U+0100.
    seen = [b for b in range(256) if 33 <= b < 127 or 161 <= b < 173 or b >= 174]
    letters = [chr(b) for b in seen] + [chr(256 + i) for i in range(256 - len(seen))]
    tokens = letters + [MERGED] + [f"<{i}>" for i in range(len(letters) + 1, vocabulary)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": byte_level,
                 "post_processor": None, "decoder": byte_level,
                 "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": ["Ġ Ġ"]}}
    for name, content in (("config.json", config), ("tokenizer.json", tokenizer)):
        with open(os.path.join(sys.argv[2], name), "w", encoding="utf-8") as file:
            json.dump(content, file)


if __name__ == "__main__":
    main()

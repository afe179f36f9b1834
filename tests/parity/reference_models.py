# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Llama, Mixtral, Qwen 2 and 3, Gemma 3, GPT-2 and BERT in plain PyTorch, written from their papers and the published checkpoints.

A model is a shape, with the names of its config.json, and a dictionary of weights, with theirs. Norms of Gemma are the
factor less 1, as there.
"""
import math
import os
import sys

import torch
import torch.nn.functional as F

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import safetensors_io


def attention(q, k, v, window, causal=True):
    """@shape q [heads, t, width]  k, v [kv_heads, t, width]"""
    t, group = q.shape[1], q.shape[0] // k.shape[0]
    k, v = (x.repeat_interleave(group, dim=0) for x in (k, v))
    distance = torch.arange(t)[:, None] - torch.arange(t)[None, :]
    hidden = causal & (distance < 0) | (distance >= (window or t))
    scores = (q @ k.transpose(1, 2)) / math.sqrt(q.shape[2])
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)


def frequencies(width, base, scaling):
    """@source for llama3: transformers, modeling_rope_utils.py"""
    f = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    if not scaling:
        return f
    if scaling["rope_type"] == "linear":
        return f / scaling["factor"]
    assert scaling["rope_type"] == "llama3"
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * f / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return f * (smooth + (1 - smooth) / scaling["factor"])


def rotate(x, f):
    """@shape x [heads, t, width]"""
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * f
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rms_norm(x, weight, epsilon):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def decoder(shape, w, tokens):
    """Llama, Mixtral, Qwen 2, Qwen 3, Gemma 3: what goes into the head, and the head."""
    gemma = shape["model_type"] == "gemma3_text"
    norm = lambda x, name: rms_norm(x, w[name + ".weight"] + gemma, shape["rms_norm_eps"])
    linear = lambda x, name: F.linear(x, w[name + ".weight"], w.get(name + ".bias"))
    activation = lambda x: F.gelu(x, approximate="tanh") if gemma else F.silu(x)

    def mlp(x, name, gate="gate_proj", up="up_proj", down="down_proj"):
        return linear(activation(linear(x, f"{name}.{gate}")) * linear(x, f"{name}.{up}"), f"{name}.{down}")

    def mixture(x, name, *names):
        """All experts of all tokens, times their weights: those of the most probable ones over their sum, else 0."""
        probable = linear(x, name + ".gate").softmax(-1)
        least = probable.topk(shape["num_experts_per_tok"]).values[:, -1:]
        weights = probable * (probable >= least)
        weights = weights / weights.sum(-1, keepdim=True)
        return sum(weights[:, e:e + 1] * mlp(x, f"{name}.experts.{e}", *names) for e in range(weights.shape[1]))

    width, heads = shape["head_dim"], lambda x: x.unflatten(1, (-1, shape["head_dim"])).transpose(0, 1)
    x = w["model.embed_tokens.weight"][tokens] * (math.sqrt(shape["hidden_size"]) if gemma else 1)
    for i in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        local = gemma and (i + 1) % shape["sliding_window_pattern"] != 0
        f = frequencies(width, shape["rope_local_base_freq" if local else "rope_theta"],
                        None if local else shape.get("rope_scaling"))
        h = norm(x, layer + "input_layernorm")
        q, k, v = (heads(linear(h, f"{layer}self_attn.{n}_proj")) for n in "qkv")
        if layer + "self_attn.q_norm.weight" in w:
            q, k = norm(q, layer + "self_attn.q_norm"), norm(k, layer + "self_attn.k_norm")
        window = shape.get("sliding_window") if local or shape["model_type"] == "mistral" else None
        h = linear(attention(rotate(q, f), rotate(k, f), v, window), layer + "self_attn.o_proj")
        x = x + (norm(h, layer + "post_attention_layernorm") if gemma else h)
        h = norm(x, layer + ("pre_feedforward_layernorm" if gemma else "post_attention_layernorm"))
        if shape["model_type"] == "mixtral":
            h = mixture(h, layer + "block_sparse_moe", "w1", "w3", "w2")
        else:
            h = (mixture if shape["model_type"] == "qwen3_moe" else mlp)(h, layer + "mlp")
        x = x + (norm(h, layer + "post_feedforward_layernorm") if gemma else h)
    return norm(x, "model.norm"), w.get("lm_head.weight", w["model.embed_tokens.weight"])


def gpt2(shape, w, tokens):
    norm = lambda x, name: F.layer_norm(x, (shape["n_embd"],), w[name + ".weight"], w[name + ".bias"], 1e-5)
    linear = lambda x, name: x @ w[name + ".weight"] + w[name + ".bias"]  # these are [in, out]
    heads = lambda x: x.unflatten(1, (shape["n_head"], -1)).transpose(0, 1)
    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for i in range(shape["n_layer"]):
        q, k, v = (heads(y) for y in linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").chunk(3, dim=1))
        x = x + linear(attention(q, k, v, None), f"h.{i}.attn.c_proj")
        h = F.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        x = x + linear(h, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f"), w["wte.weight"]


def bert(shape, w, tokens):
    norm = lambda x, name: F.layer_norm(x, x.shape[1:], w[name + ".weight"], w[name + ".bias"], shape["layer_norm_eps"])
    linear = lambda x, name: F.linear(x, w[name + ".weight"], w[name + ".bias"])
    heads = lambda x: x.unflatten(1, (shape["num_attention_heads"], -1)).transpose(0, 1)
    words, places, types = (w[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    x = norm(words[tokens] + types[0] + places[: len(tokens)], "embeddings.LayerNorm")
    for i in range(shape["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        q, k, v = (heads(linear(x, f"{layer}attention.self.{n}")) for n in ("query", "key", "value"))
        h = linear(attention(q, k, v, None, causal=False), layer + "attention.output.dense")
        x = norm(x + h, layer + "attention.output.LayerNorm")
        h = linear(F.gelu(linear(x, layer + "intermediate.dense")), layer + "output.dense")
        x = norm(x + h, layer + "output.LayerNorm")
    return x


@torch.no_grad()
def embedding(shape, weights, tokens, pooling):
    """@shape result [width]"""
    states = bert(shape, weights, torch.as_tensor(tokens))
    v = states[0] if pooling == "cls" else states.mean(0)
    return v / v.norm()


@torch.no_grad()
def log_probabilities(shape, weights, tokens, first):
    """What follows each of the tokens from the place `first` on. @shape result [t - first, vocabulary]"""
    model = gpt2 if shape["model_type"] == "gpt2" else decoder
    hidden, head = model(shape, weights, torch.as_tensor(tokens))
    return (hidden[first:] @ head.T).log_softmax(-1)


def write_safetensors(path, weights):
    safetensors_io.write(path, {n: ("F32", list(t.shape), t.numpy().astype("<f4").tobytes()) for n, t in weights.items()})


def read_safetensors(path):
    return {name: torch.frombuffer(bytearray(content), dtype=torch.float32).reshape(shape)
            for name, (dtype, shape, content) in safetensors_io.read(path)[0].items() if dtype == "F32"}


def read_gemma_gguf(path):
    """The shape and the weights of a GGUF file, in float32 and with the names of Hugging Face. Needs gguf of PyPI."""
    import gguf
    file = gguf.GGUFReader(path)
    value = lambda key: file.fields["gemma3." + key].contents()
    shape = {"model_type": "gemma3_text", "num_hidden_layers": value("block_count"),
             "hidden_size": value("embedding_length"), "head_dim": value("attention.key_length"),
             "rms_norm_eps": value("attention.layer_norm_rms_epsilon"), "rope_theta": value("rope.freq_base"),
             "sliding_window": value("attention.sliding_window"), "rope_local_base_freq": 1e4,
             "sliding_window_pattern": 6}
    renamed = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
               "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
               "post_ffw_norm": "post_feedforward_layernorm", "attn_output": "self_attn.o_proj",
               **{f"attn_{n}": f"self_attn.{n}_proj" for n in "qkv"},
               **{f"attn_{n}_norm": f"self_attn.{n}_norm" for n in "qk"},
               **{f"ffn_{n}": f"mlp.{n}_proj" for n in ("gate", "up", "down")}}
    weights = {}
    for tensor in file.tensors:
        name = tensor.name.removesuffix(".weight").split(".")
        prefix = f"model.layers.{name[1]}." if name[0] == "blk" else ""
        values = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        weights[prefix + renamed[name[-1]] + ".weight"] = values - 1 if name[-1].endswith("norm") else values
    return shape, weights

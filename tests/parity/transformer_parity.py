#!/usr/bin/env python3
"""Compares logits, loss and gradients of tenon's models with PyTorch on the same random weights.

usage: transformer_parity.py DUMP.safetensors    (written by tests/parity/dump_model.cpp)

PyTorch runs in float64, so that what is seen is tenon's error alone. Each tensor must agree within 1e-5 of its largest
value. Exit code 77 (skipped) when PyTorch is not installed.
"""
import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import safetensors_io

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    print(f"skipped: PyTorch not found ({missing})")
    sys.exit(77)

TOLERANCE = 1e-5
torch.set_default_dtype(torch.float64)


def read_safetensors(path):
    tensors, metadata = safetensors_io.read(path)
    kinds = {"F32": "<f4", "I32": "<i4"}
    return {name: torch.from_numpy(np.frombuffer(content, kinds[dtype]).reshape(shape).copy())
            for name, (dtype, shape, content) in tensors.items()}, metadata


def attention(q, k, v, heads, kv_heads, causal_window):
    b, t, c = q.shape
    width = c // heads
    q = q.view(b, t, heads, width).transpose(1, 2)
    k = k.view(b, t, kv_heads, width).transpose(1, 2).repeat_interleave(heads // kv_heads, dim=1)
    v = v.view(b, t, kv_heads, width).transpose(1, 2).repeat_interleave(heads // kv_heads, dim=1)
    distance = torch.arange(t)[:, None] - torch.arange(t)[None, :]
    visible = (distance >= 0) & (distance < (causal_window or t + 1))
    scores = (q @ k.transpose(-2, -1)) * width ** -0.5
    return (F.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1) @ v).transpose(1, 2).reshape(b, t, c)


def gpt2(p, meta, tokens, auxiliary):
    width, heads = int(meta["width"]), int(meta["heads"])
    norm = lambda x, name: F.layer_norm(x, (width,), p[name + ".weight"], p[name + ".bias"], 1e-5)
    linear = lambda x, name: F.linear(x, p[name + ".weight"], p[name + ".bias"])
    x = p["wte.weight"][tokens] + p["wpe.weight"][: tokens.shape[1]]
    for i in range(int(meta["layers"])):
        q, k, v = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(width, dim=2)
        x = x + linear(attention(q, k, v, heads, heads, 0), f"h.{i}.attn.c_proj")
        h = F.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        x = x + linear(h, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ p["wte.weight"].T


def rotate(x, heads, base):
    b, t, c = x.shape
    width = c // heads
    x = x.view(b, t, heads, width)
    angle = torch.arange(t)[:, None] * base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    cos, sin = angle.cos()[None, :, None, :], angle.sin()[None, :, None, :]
    first, second = x[..., : width // 2], x[..., width // 2:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).view(b, t, c)


def gated(x, gate, value, out):
    return (F.silu(x @ gate.T) * (x @ value.T)) @ out.T


def mixture(p, name, meta, x, auxiliary):
    """Every expert for every token, then the chosen ones; of a sequence an expert takes the first `capacity` tokens."""
    experts, slots, capacity = int(meta["experts"]), int(meta["slots"]), int(meta["capacity"])
    probability = F.softmax(x @ p[name + "gate.weight"].T, dim=-1)
    weight, chosen = probability.topk(slots, dim=-1)
    weight = weight / weight.sum(-1, keepdim=True)
    used = F.one_hot(chosen, experts).double()  # [b, t, slots, experts]
    count = used.sum(dim=(1, 2))
    share = count / count.sum(-1, keepdim=True)
    auxiliary.append(float(meta["auxiliary_weight"]) * experts * (share * probability.mean(dim=1)).sum(-1).mean())
    kept = used * (used.sum(dim=2).cumsum(dim=1) <= capacity)[:, :, None, :]
    assert kept.sum() < used.sum()
    outputs = torch.stack([gated(x, *(p[f"{name}experts.{e}.{w}.weight"] for w in ("w1", "w3", "w2")))
                           for e in range(experts)], dim=-1)
    return (outputs * (kept * weight[..., None]).sum(dim=2)[:, :, None, :]).sum(-1)


def llama(p, meta, tokens, auxiliary):
    heads, kv_heads = int(meta["heads"]), int(meta["kv_heads"])
    norm = lambda x, name: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * p[name + ".weight"]
    x = p["model.embed_tokens.weight"][tokens]
    for i in range(int(meta["layers"])):
        a, m = f"model.layers.{i}.self_attn.", f"model.layers.{i}."
        h = norm(x, f"model.layers.{i}.input_layernorm")
        q, k, v = (F.linear(h, p[a + n + "_proj.weight"], p.get(a + n + "_proj.bias")) for n in "qkv")
        base = float(meta["rope_base"])
        y = attention(rotate(q, heads, base), rotate(k, kv_heads, base), v, heads, kv_heads, int(meta["window"]))
        x = x + y @ p[a + "o_proj.weight"].T
        h = norm(x, f"model.layers.{i}.post_attention_layernorm")
        if "experts" in meta:
            x = x + mixture(p, m + "block_sparse_moe.", meta, h, auxiliary)
        else:
            x = x + gated(h, *(p[f"{m}mlp.{w}_proj.weight"] for w in ("gate", "up", "down")))
    return norm(x, "model.norm") @ p["lm_head.weight"].T


tensors, meta = read_safetensors(sys.argv[1])
tokens, targets = tensors["input.tokens"].long(), tensors["input.targets"].long()
p = {n[len("parameter."):]: t.double().requires_grad_() for n, t in tensors.items() if n.startswith("parameter.")}
auxiliary = [torch.zeros(())]
logits = {"gpt2": gpt2, "llama": llama, "mixtral": llama}[meta["model"]](p, meta, tokens, auxiliary)
loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
auxiliary_loss = torch.stack(auxiliary).sum()
(loss + auxiliary_loss).backward()

worst = 0.0
failed = 0


def compare(name, ours, theirs):
    global worst, failed
    error = float((ours.double() - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))
    worst = max(worst, error)
    if not error <= TOLERANCE:
        failed += 1
        print(f"FAIL {name}: largest difference {error:.2e} of the largest value, allowed {TOLERANCE:.0e}")


compare("logits", tensors["output.logits"].view_as(logits), logits.detach())
compare("loss", tensors["output.loss"].view(()), loss.detach())
compare("auxiliary loss", tensors["output.auxiliary_loss"].view(()), auxiliary_loss.detach())
for name, value in p.items():
    compare("gradient of " + name, tensors["gradient." + name].view_as(value), value.grad)
print(f"{meta['model']}: {len(p) + 3} tensors compared with PyTorch {torch.__version__}, largest relative difference {worst:.1e}")
sys.exit(1 if failed else 0)

#!/usr/bin/env python3
"""The peer of benchmarks/training.py: one GPT-2 shaped training loop in PyTorch on the CPU, fp32.

Prints one JSON object: tokens_per_second (median over the timed steps), peak_rss_bytes, loss of the last step, version.
It is PyTorch at its best on a CPU as far as we know how: fused attention, fused AdamW, no dropout, tied head.
"""
import argparse
import json
import os
import resource
import time

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--layers", type=int, default=6)
parser.add_argument("--width", type=int, default=384)
parser.add_argument("--heads", type=int, default=6)
parser.add_argument("--context", type=int, default=256)
parser.add_argument("--vocabulary", type=int, default=256)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--compile", action="store_true", help="torch.compile the model (needs a compiler)")
args = parser.parse_args()
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # the faster setting on small shared machines
os.environ["OMP_NUM_THREADS"] = str(args.threads)

import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(1)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(c, dim=2)
        q, k, v = (m.view(b, t, self.heads, c // self.heads).transpose(1, 2) for m in (q, k, v))
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mask = torch.ones(t, t, dtype=torch.bool).tril()
            scores = (q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5
            y = F.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1) @ v
        x = x + self.c_proj(y.transpose(1, 2).reshape(b, t, c))
        h = self.c_fc(self.ln_2(x))
        try:
            h = F.gelu(h, approximate="tanh")
        except TypeError:
            h = F.gelu(h)
        return x + self.c_out(h)


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(args.vocabulary, args.width)
        self.wpe = nn.Embedding(args.context, args.width)
        self.h = nn.ModuleList(Block(args.width, args.heads) for _ in range(args.layers))
        self.ln_f = nn.LayerNorm(args.width)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, args.vocabulary), targets.reshape(-1))


model = GPT()
options = dict(lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
try:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **options)
except (RuntimeError, TypeError):
    optimizer = torch.optim.AdamW(model.parameters(), **options)
run = torch.compile(model) if args.compile else model
tokens = torch.randint(args.vocabulary, (args.batch, args.context + 1))
seconds = []
for step in range(args.steps + 1):
    begin = time.perf_counter()
    loss = run(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if step:  # the first step warms up
        seconds.append(time.perf_counter() - begin)
seconds.sort()
print(json.dumps({
    "tokens_per_second": args.batch * args.context / seconds[len(seconds) // 2],
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "loss": loss.item(),
    "torch": torch.__version__,
}))

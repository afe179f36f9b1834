# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Is a planned step time true? Trains GPTs with PyTorch on one GPU, and prints the planned over the measured time.

    python3 benchmarks/plan_on_gpu.py build/release/examples/plan [--hardware h100_sxm] [--eager]

Needs PyTorch with a GPU. What is trained is as `precision::bf16_mixed`: bf16 parameters and activations, fp32 masters,
gradients and AdamW; attention by torch's fused kernel, nothing recomputed."""
import argparse
import json
import subprocess
import time

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("plan", help="the program")
parser.add_argument("--hardware", default="h100_sxm")
parser.add_argument("--eager", action="store_true", help="without torch.compile")
options = parser.parse_args()
# name in `plan`, layers, width, heads, tokens, vocabulary, micro-batch
models = [("gpt2_124m", 12, 768, 12, 1024, 50304, 16), ("gpt2_1558m", 48, 1600, 25, 1024, 50304, 8),
          ("gpt_1.7b", 24, 2304, 24, 2048, 51200, 4)]
micro_batches = 4


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, layers, width, heads, tokens, vocabulary):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(torch.zeros(tokens, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs, targets):
        x = self.tokens(inputs) + self.positions
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def measured(layers, width, heads, tokens, vocabulary, micro_batch):
    """Seconds of a step, in the mean of five, and the most bytes of the device that tensors took."""
    with torch.device("cuda"):
        model = GPT(layers, width, heads, tokens, vocabulary).to(torch.bfloat16)
        inputs, targets = (torch.randint(0, vocabulary, (micro_batch, tokens)) for _ in range(2))
    parameters = list(model.parameters())
    masters = [p.detach().float() for p in parameters]
    for m in masters:
        m.grad = torch.zeros_like(m)
    gradients = [m.grad for m in masters]
    optimizer = torch.optim.AdamW(masters, lr=1e-4, fused=True)
    loss = model if options.eager else torch.compile(model)

    def step():
        torch._foreach_zero_(gradients)
        for _ in range(micro_batches):
            loss(inputs, targets).backward()
            torch._foreach_add_(gradients, [p.grad for p in parameters])
            for p in parameters:
                p.grad = None
        optimizer.step()
        torch._foreach_copy_([p.data for p in parameters], masters)

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begin = time.time()
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    return (time.time() - begin) / 5, torch.cuda.max_memory_allocated()


print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
print("model        measured ms  planned ms  planned/measured  PyTorch GiB  planned GiB")
for name, *shape in models:
    torch.manual_seed(1)
    seconds, peak = measured(*shape)
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    said = subprocess.run(
        [options.plan, "--model", name, "--devices", "1", "--hardware", options.hardware, "--batch",
         str(micro_batches * shape[5]), "--micro-batch", str(shape[5]), "--sequence-length", str(shape[3]), "--recompute",
         "none", "--zero", "0", "--ignore-memory", "--json"], check=True, capture_output=True, text=True).stdout
    mesh = json.loads(said)["meshes"][0]
    planned = mesh["seconds"]["step"]
    print(f"{name:12} {1e3 * seconds:11.1f} {1e3 * planned:11.1f} {planned / seconds:17.2f} {peak / 2**30:12.1f} "
          f"{mesh['bytes_per_rank']['total'] / 2**30:12.1f}")

# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""Beam search against that of Hugging Face's transformers since 4.50, on small random models that it saves."""
import itertools
import json
import os
import shutil
import subprocess
import sys

try:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
except ImportError as missing:
    print(f"skipped: transformers or PyTorch not found ({str(missing).splitlines()[0]})")
    sys.exit(77)

program = os.path.join(sys.argv[1], "tests", "parity_beam_program")
if not os.path.exists(program):
    print("skipped: parity_beam_program was not built: nlohmann_json was not found")
    sys.exit(77)
folder = os.path.join(sys.argv[1], "beam_test")
shutil.rmtree(folder, ignore_errors=True)
torch.manual_seed(3)
VOCABULARY, TOLERANCE = 60, 1e-4
EARLY = [False, True, "never"]  # numbered as early_stopping in beam_search.hpp
models = {
    "llama": LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.25)),
    "gpt2": GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4, n_positions=256, initializer_range=0.25)),
}
for name, model in models.items():
    model.eval().save_pretrained(os.path.join(folder, name))
    requests = []
    for seed, beams, penalty, early in itertools.product(range(4), (2, 3, 5), (0.0, 1.0, 2.0, -1.0), range(3)):
        prompt = torch.randint(VOCABULARY, (1, 12 + seed), generator=torch.Generator().manual_seed(seed))
        # A token that a text of one beam comes to is one that searches come to as well.
        plain = model.generate(prompt, do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=None)
        stops = [int(plain[0, -6 + seed % 4])]
        # Where several of the likeliest tokens end a text, beams come from further down.
        with torch.no_grad():
            likeliest = model(prompt).logits[0, -1].topk(3).indices.tolist()
        stops += [t for t in likeliest[:seed] if t not in stops]
        requests.append({"prompt": prompt[0].tolist(), "beams": beams, "max_tokens": 12, "length_penalty": penalty,
                         "early_stopping": early, "stops": stops})
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    result = subprocess.run([program, os.path.join(folder, name)], input=lines, text=True, stdout=subprocess.PIPE,
                            check=True, timeout=200)
    ended, worst = 0, 0.0
    for asked, line in zip(requests, result.stdout.splitlines(), strict=True):
        prompt = torch.tensor([asked["prompt"]])
        theirs = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, num_beams=asked["beams"],
            num_return_sequences=asked["beams"], max_new_tokens=asked["max_tokens"],
            length_penalty=asked["length_penalty"], early_stopping=EARLY[asked["early_stopping"]],
            eos_token_id=asked["stops"], pad_token_id=asked["stops"][0], return_dict_in_generate=True,
            output_scores=True)
        for ours, text, score in zip(json.loads(line), theirs.sequences[:, prompt.shape[1]:].tolist(),
                                     theirs.sequences_scores.tolist(), strict=True):
            tokens = [t for t, _ in ours]
            end = next((i for i, t in enumerate(text) if t in asked["stops"]), len(text))
            text = text[:end + 1]  # behind it is padding
            assert tokens == text, (name, asked, ours, text, score)
            mine = sum(p for _, p in ours) / len(ours) ** asked["length_penalty"]
            worst = max(worst, abs(mine - score) / max(1, abs(score)))
            ended += tokens[-1] in asked["stops"]
    print(f"{name}: {len(requests)} searches found the same texts, of which {ended} end before the last token; "
          f"scores differ by {worst:.1e} at most")
    assert worst < TOLERANCE and ended > 40

# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 300
"""embed against PyTorch in float64: on a small random BERT, from a folder as Hugging Face has it and from the GGUF file
that convert makes of it."""
import json
import pathlib
import random
import shutil
import subprocess
import sys

try:
    import torch
    from reference_models import embedding, write_safetensors
except ImportError as missing:
    print(f"skipped: PyTorch not found ({missing})")
    sys.exit(77)

programs = pathlib.Path(sys.argv[1]) / "examples"
if not all((programs / p).exists() for p in ("embed", "convert", "generate")):
    print("skipped: embed was not built: CLI11 or nlohmann_json was not found")
    sys.exit(77)
folder = pathlib.Path(sys.argv[1]) / "embed_test"
shutil.rmtree(folder, ignore_errors=True)
random.seed(7)
torch.manual_seed(7)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = SPECIAL + list(LETTERS) + ["##" + c for c in LETTERS]
CONTEXT = 64
shape = {"model_type": "bert", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 96, "max_position_embeddings": CONTEXT, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
         "hidden_act": "gelu", "vocab_size": len(VOCABULARY), "position_embedding_type": "absolute"}


def program(name, *words):
    return subprocess.run([programs / name, *map(str, words)], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=100)


def embed(model, texts, *options):
    """What the program prints, and what it says beside."""
    result = program("embed", "--model", model, "--json", *(w for t in texts for w in ("--text", t)), *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def vectors(model, texts, *options):
    return embed(model, texts, *options)[0]["embeddings"]


def refused(expected, name, *words):
    result = program(name, *words)
    print(result.stderr.strip())
    assert result.returncode == 1 and expected in result.stderr and "Fix: " in result.stderr, (words, result)


def random_weights():
    """Spread so that attention looks somewhere and the halves of a layer weigh alike."""
    width, hidden = shape["hidden_size"], shape["intermediate_size"]
    w = {f"embeddings.{n}_embeddings.weight": torch.randn(rows, width)
         for n, rows in (("word", len(VOCABULARY)), ("position", CONTEXT), ("token_type", 2))}
    linear, norms = [], ["embeddings.LayerNorm"]
    for i in range(shape["num_hidden_layers"]):
        p = f"encoder.layer.{i}."
        linear += [(f"{p}attention.{n}", width, width) for n in ("self.query", "self.key", "self.value", "output.dense")]
        linear += [(p + "intermediate.dense", hidden, width), (p + "output.dense", width, hidden)]
        norms += [p + "attention.output.LayerNorm", p + "output.LayerNorm"]
    for name, rows, cols in linear + [("pooler.dense", width, width)]:
        w.update({name + ".weight": torch.randn(rows, cols) * 1.5 / cols ** 0.5, name + ".bias": torch.randn(rows) * 0.2})
    for name in norms:
        w.update({name + ".weight": 1 + 0.2 * torch.randn(width), name + ".bias": torch.randn(width) * 0.2})
    return w


def write_folder(path, weights, **changes):
    path.mkdir(parents=True)
    write_safetensors(path / "model.safetensors", weights)
    special = [{"id": i, "content": t, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
                "single_word": False} for i, t in enumerate(SPECIAL)]
    (path / "config.json").write_text(json.dumps({**shape, **changes}))
    (path / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": special, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {t: i for i, t in enumerate(VOCABULARY)}}}))
    return path


def ids(text):
    """What the small tokenizer makes of words in small letters."""
    return [2] + [VOCABULARY.index(("##" if i else "") + c) for w in text.split() for i, c in enumerate(w)] + [3]


weights = random_weights()
model = write_folder(folder / "small", weights)
doubles = {n: t.double() for n, t in weights.items()}
texts = ["".join(random.choice(LETTERS + "  ") for _ in range(n)) for n in (1, 5, 17, 40, 61, 62)] + ["a", "", "zz top"]
for how in ("mean", "cls"):
    expected = torch.stack([embedding(shape, doubles, ids(t), how) for t in texts])
    error = float((torch.tensor(vectors(model, texts, "--pooling", how)).double() - expected).abs().max())
    print(f"small, {how}: largest difference {error:.1e}")
    assert error < 2e-6, how

# Contract B: the bits of a text's vector do not depend on its neighbours or on threads.
together, _ = embed(model, texts)
assert together["tokens"] == [len(ids(t)) for t in texts]
for options in ([], ["--threads", 1], ["--threads", 3]):
    assert [vectors(model, [t], *options)[0] for t in texts[:4]] == together["embeddings"][:4], options
(folder / "texts.txt").write_text("\n".join(texts) + "\n")
assert vectors(model, [], "--file", folder / "texts.txt", "--threads", 1) == together["embeddings"]
many = [random.choice(texts) for _ in range(300)]  # more than are worked on together
assert vectors(model, many) == [together["embeddings"][texts.index(t)] for t in many]
assert program("convert", model, folder / "small.gguf", "--type", "f32", "--quiet").returncode == 0
assert vectors(folder / "small.gguf", texts) == together["embeddings"], "GGUF"
back = folder / "back"
assert program("convert", folder / "small.gguf", back, "--quiet").returncode == 0
shutil.copy(model / "tokenizer.json", back)
assert vectors(back, texts) == together["embeddings"], "GGUF and back"

# A text that is too long.
long = "a" * 70
cut, said = embed(model, [long, "b"])
assert "text 1 has 8 tokens more than the 64 that are read: its end is left out" in said, said
assert cut["embeddings"][0] == vectors(model, ["a" * 62])[0] and cut["tokens"] == [64, 3]
refused("text 1 has 8 tokens more than the 64", "embed", "--model", model, "--text", long, "--whole")
(model / "sentence_bert_config.json").write_text('{"max_seq_length": 10}')
(model / "1_Pooling").mkdir()
(model / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
assert vectors(model, [long]) == vectors(model, ["a" * 8], "--pooling", "cls", "--longest", 64)
(model / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": true}')
refused("takes neither the mean of a text's states nor the first one", "embed", "--model", model, "--text", "a")
shutil.rmtree(model / "1_Pooling")

# What people look at.
table = program("embed", "--model", model, "--similarity", "--text", "one", "--text", "two", "--text", "one").stdout
print(table, end="")
rows = [line.split() for line in table.splitlines()]
assert [r[-1] for r in rows] == ["one", "two", "one"] and rows[0][0] == rows[0][2] == "1.000" and rows[0][1] == rows[1][0]

# What is no encoder, or another one.
refused("no text is given", "embed", "--model", model)
refused("longest is 65", "embed", "--model", model, "--text", "a", "--longest", 65)
refused("longest is 2", "embed", "--model", model, "--text", "a", "--longest", 2)
refused("cannot be read", "embed", "--model", model, "--file", folder / "none.txt")
refused("is a bert, which makes a vector of a text", "generate", "--model", model, "--prompt", "a")
refused("is a llama, which continues texts", "embed", "--text", "a", "--model",
        write_folder(folder / "llama", weights, model_type="llama", hidden_act="silu"))
refused("has the hidden_act 'relu'", "embed", "--text", "a", "--model",
        write_folder(folder / "relu", weights, hidden_act="relu"))
refused("has the position_embedding_type 'relative_key'", "embed", "--text", "a", "--model",
        write_folder(folder / "relative", weights, position_embedding_type="relative_key"))
refused("has the shape [64, 48], but [65, 48] is expected", "embed", "--text", "a", "--model",
        write_folder(folder / "positions", weights, max_position_embeddings=65))

# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# ctest: TIMEOUT 120
"""Tokens of mixed text in many scripts against tokenizers, tiktoken and sentencepiece.

usage: tokenizer_test.py BUILD_FOLDER [MEGABYTES [TEXT_FILE...]]

The vocabularies are trained here by those libraries, each as a family of models has it; the texts are made here too,
from Unicode's blocks, and files may be added. More than the 0.5 MB by default takes minutes. Libraries that are missing
are skipped; with none of them the test is.
"""
import functools
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

try:
    import tokenizers
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError as missing:
    print(f"skipped: tokenizers not found ({missing})")
    sys.exit(77)
try:
    import tiktoken
except ImportError:
    tiktoken = None
try:
    import gguf
    import sentencepiece
except ImportError:
    sentencepiece = None

PROGRAM = os.path.join(sys.argv[1], "tests", "parity_tokenize_program")
MEGABYTES = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|"
          r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
            r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
SPECIAL = ["<|begin|>", "<|end|>", "<s>", "</s>"]
ODDITIES = ["", " ", "\u0378\u0380 \U0002fffe", "  ", "   \n\n ", "\r\n", "\r\n\r\n x", "\0", "a\0b", "a" * 3000, " " * 1000,
            "\n" * 100, "한" * 500, "👨‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽", "e\u0301\u0323 \u0323\u0301e", "שלום עולם‏ مرحبا بالعالم",
            "I'LL DON'T we'Re it'ſ", "1234567890 ١٢٣٤٥٦ ½ Ⅷ ①", "<|begin|>text<|end|> <|end", "<s> </s><s>", "▁ ▁▁a▁b",
            "<0x41>", "\u0085\u2028\u3000\u00a0x", "ΑΣ ΌΣΟΣ İstanbul ẞ ǅ", "\ufeffbom \ufffd", "<mask>  x <mask>"]


def sample_text(size, seed):
    """Lines of words from Unicode's blocks, with blanks, marks and emoji of all kinds between them.

    Characters that this Python's Unicode does not know are left out: the libraries have different versions of Unicode,
    and do not agree with each other on what came last.
    """
    random.seed(seed)

    def letter(block):
        while unicodedata.category(c := chr(random.randrange(*block))) == "Cn":
            pass
        return c

    blocks = [(0x21, 0x7f)] * 8 + [
        (0xa0, 0x250), (0x250, 0x400), (0x400, 0x530), (0x530, 0x600), (0x600, 0x700), (0x700, 0x900), (0x900, 0xd80),
        (0xe00, 0x1100), (0x1100, 0x1200), (0x1200, 0x1700), (0x1780, 0x18b0), (0x1d00, 0x2000), (0x2000, 0x2c00),
        (0x3000, 0x3400), (0x4e00, 0x9fff), (0xa000, 0xabff), (0xac00, 0xd7a4), (0xf900, 0x10000), (0x1d400, 0x1d800),
        (0x1f300, 0x1fb00), (0x20000, 0x20400), (0x10000, 0x12000)]
    marks = [chr(c) for c in range(0x300, 0x11000) if unicodedata.category(chr(c))[0] == "M"]
    blanks = [" "] * 8 + ["  ", "\n", "\r\n", "\n\n", "\t", ", ", ". ", "", "'s ", "'LL ", " 123 ", " 4567.89 ", "   \n  ",
                          "\u00a0", "\u3000", "\u0085", "\u2028", " \u0301", "\u200d", "<s>", "</s>", "<0x41>"]
    common = "the of and to in is was for that with on as by it at from his an were are which this be or had".split()
    lines, count = [], 0
    while count < size:
        block, line = random.choice(blocks), ""
        for _ in range(random.randint(1, 14)):
            if random.random() < 0.4:
                word = random.choice(common)
            else:
                word = "".join(letter(block) for _ in range(random.randint(1, 8)))
                if random.random() < 0.1:
                    word += random.choice(marks)
            line += word + random.choice(blanks)
        line = line.encode("utf-8", "ignore").decode()
        lines.append(line)
        count += len(line.encode())
    return lines


def tokens_of(model, flags, texts):
    """What the program makes of the texts: lists of ids, and where the flags have a d the decoded texts."""
    data = [t if isinstance(t, bytes) else t.encode() for t in texts]
    sent = b"".join(struct.pack("<I", len(d)) + d for d in data)
    out = subprocess.run([PROGRAM, model, flags], input=sent, stdout=subprocess.PIPE, check=True).stdout
    ids, back, at = [], [], 0
    while at < len(out):
        (n,) = struct.unpack_from("<I", out, at)
        ids.append(list(struct.unpack_from(f"<{n}i", out, at + 4)))
        at += 4 + 4 * n
        if "d" in flags:
            (n,) = struct.unpack_from("<I", out, at)
            back.append(out[at + 4:at + 4 + n].decode())
            at += 4 + n
    return ids, back


def compare(name, texts, ours, theirs):
    size = sum(len(t if isinstance(t, bytes) else t.encode()) for t in texts)
    wrong = [i for i in range(len(texts)) if ours[i] != theirs[i]]
    print(f"{name}: {size / 1e6:.2f} MB, {len(texts)} texts, {len(wrong)} differ", flush=True)
    for i in wrong[:5]:
        k = next((k for k, (a, b) in enumerate(zip(ours[i], theirs[i])) if a != b), min(len(ours[i]), len(theirs[i])))
        print(f"  {texts[i]!r:.200}\n  at {k}: ours {ours[i][k:k + 8]!r} theirs {theirs[i][k:k + 8]!r}")
    return not wrong


def trained(model, trainer, text, normalizer=None, pre_tokenizer=None, decoder=None, post_processor=None):
    t = Tokenizer(model)
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        if locals()[part] is not None:
            setattr(t, part, locals()[part])
    t.train_from_iterator(text, trainer)
    return t


def byte_level(patterns, add_prefix_space=False):
    cuts = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(cuts + [pre_tokenizers.ByteLevel(add_prefix_space, use_regex=not patterns)])


def families(text):
    """Tokenizers as families of models configure them."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe = lambda **more: trainers.BpeTrainer(**{
        "vocab_size": 3000, "special_tokens": SPECIAL, "initial_alphabet": alphabet, "show_progress": False, **more})
    begin = lambda token: processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, SPECIAL.index(token))])
    byte = dict(decoder=decoders.ByteLevel())
    yield "GPT-2", trained(models.BPE(), bpe(), text, pre_tokenizer=pre_tokenizers.ByteLevel(False), **byte)
    yield "RoBERTa", trained(models.BPE(), bpe(), text, pre_tokenizer=pre_tokenizers.ByteLevel(True), **byte,
                             post_processor=processors.RobertaProcessing(("</s>", 3), ("<s>", 2)))
    yield "Llama 3", trained(models.BPE(ignore_merges=True), bpe(), text, pre_tokenizer=byte_level([LLAMA3]), **byte,
                             post_processor=begin("<|begin|>"))
    yield "Qwen 2", trained(models.BPE(), bpe(), text, normalizers.NFC(), byte_level([QWEN2]), **byte)
    yield "GPT-4o", trained(models.BPE(), bpe(), text, pre_tokenizer=byte_level([O200K]), **byte)
    yield "Mistral Nemo", trained(models.BPE(ignore_merges=True), bpe(), text, pre_tokenizer=byte_level([TEKKEN]), **byte)
    yield "DeepSeek 3", trained(models.BPE(), bpe(), text, pre_tokenizer=byte_level(DEEPSEEK), **byte)
    yield "StarCoder", trained(models.BPE(), bpe(), text, **byte, pre_tokenizer=pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]))
    bytes_as_tokens = SPECIAL + ["<unk>"] + [f"<0x{b:02X}>" for b in range(256)]
    spelled = dict(initial_alphabet=[], special_tokens=SPECIAL + ["<unk>"])
    llama = trained(models.BPE(unk_token="<unk>"), bpe(**spelled), text, normalizers.Replace(" ", "▁"),
                    pre_tokenizers.Split("▁", "merged_with_next"))
    yield "Llama 2", with_bytes(llama, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    yield "Gemma", with_bytes(llama, normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"))
    yield "Metaspace first", trained(models.BPE(unk_token="<unk>", fuse_unk=True), bpe(**spelled), text,
                                     pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first"),
                                     decoder=decoders.Metaspace(prepend_scheme="first"))
    unigram = trainers.UnigramTrainer(vocab_size=3000, special_tokens=SPECIAL + ["<unk>"], unk_token="<unk>",
                                      show_progress=False)
    yield "Unigram", trained(models.Unigram(), unigram, few_letters(text), pre_tokenizer=pre_tokenizers.Metaspace(),
                             decoder=decoders.Metaspace())
    pieces = trainers.WordPieceTrainer(vocab_size=3000, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    yield "BERT", trained(models.WordPiece(unk_token="[UNK]"), pieces, text, normalizers.BertNormalizer(),
                          pre_tokenizers.BertPreTokenizer(), post_processor=processors.BertProcessing(
                              ("[SEP]", 2), ("[CLS]", 1)))
    yield "BERT cased", trained(models.WordPiece(unk_token="[UNK]"), pieces, text,
                                normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer())
    yield "Lower case", trained(models.WordPiece(unk_token="[UNK]"), pieces, text, normalizers.Sequence(
        [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]), pre_tokenizers.Whitespace())


def few_letters(text):
    return [t for t in text if max(t, default="") < "\u0900"]


def with_bytes(trained_tokenizer, normalizer, pre_tokenizer=None):
    """The same merges in a vocabulary that has the bytes as tokens, and no cuts."""
    import json
    made = json.loads(trained_tokenizer.to_str())
    vocabulary = made["model"]["vocab"]
    for b in range(256):
        vocabulary.setdefault(f"<0x{b:02X}>", len(vocabulary))
    made["model"].update(byte_fallback=True, fuse_unk=True)
    t = Tokenizer.from_str(json.dumps(made))
    t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizer or pre_tokenizers.Split("never", "isolated")
    more = [decoders.Strip(" ", 1, 0)] if pre_tokenizer is None else []
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] + more)
    return t


@functools.lru_cache(None)
def is_young(letter):
    """Whether the library's older tables show: its BERT takes the letter for something else than Unicode 14 does."""
    normalizer = normalizers.BertNormalizer(handle_chinese_chars=False, strip_accents=True, lowercase=False)
    kind = unicodedata.category(letter)
    dropped = kind in ("Mn", "Cc", "Cf", "Co") and letter not in "\t\n\r" or letter == "\ufffd"
    cut = kind[0] == "P" or letter in "$+<=>^`|~"
    if kind == "Cn":
        return True
    if kind[0] == "Z" or letter in "\t\n\r":
        return False
    marked = normalizers.StripAccents().normalize_str(f"a{letter}b") == "ab"
    return marked != (kind[0] == "M") or (normalizer.normalize_str(f"a{letter}b") == "ab") != dropped or not dropped and (
        len(pre_tokenizers.BertPreTokenizer().pre_tokenize_str(f"a{letter}b")) == 3) != cut


def against_tokenizers(folder, training, texts):
    right = True
    for name, theirs in families(training):
        theirs.add_tokens([tokenizers.AddedToken("<mask>", lstrip=True, rstrip=name == "GPT-2", normalized=False)])
        path = os.path.join(folder, "tokenizer.json")
        theirs.save(path)
        # The library has older tables for some things: it does not know all marks and punctuation.
        if name == "Qwen 2":
            some = [t for t in texts if theirs.normalizer.normalize_str(t) == unicodedata.normalize("NFC", t)]
        elif name.startswith("BERT") or name == "Lower case":
            some = [t for t in texts if not any(map(is_young, t)) and
                    normalizers.NFD().normalize_str(t) == unicodedata.normalize("NFD", t)]
        else:
            some = texts
        ours, back = tokens_of(path, "spd", some)
        right &= compare(name, some, ours, [e.ids for e in theirs.encode_batch(some)])
        if theirs.decoder is not None:
            right &= compare(f"{name}, decoded", some, back, theirs.decode_batch(ours, skip_special_tokens=True))
        if name in ("GPT-2", "Llama 3", "GPT-4o") and tiktoken:
            right &= against_tiktoken(name, path, theirs, {"GPT-2": GPT2, "Llama 3": LLAMA3, "GPT-4o": O200K}[name], texts)
    return right


def against_tiktoken(name, path, hugging_face, expression, texts):
    letters = pre_tokenizers.ByteLevel.alphabet()
    byte_of, spare = {}, 256
    for b in range(256):
        visible = 0x21 <= b < 0x7f or 0xa1 <= b and b != 0xad
        byte_of[chr(b if visible else spare)] = b
        spare += not visible
    assert set(byte_of) == set(letters)
    ranks = {}
    for token, i in hugging_face.get_vocab(with_added_tokens=True).items():
        if token not in SPECIAL and token != "<mask>":
            ranks[bytes(byte_of[c] for c in token)] = i
    encoding = tiktoken.Encoding("test", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    plain = [t for t in texts if not any(s in t for s in SPECIAL + ["<mask>"])]
    return compare(f"{name}, tiktoken", plain, tokens_of(path, "", plain)[0], encoding.encode_batch(plain))


def training_against_tokenizers(text):
    """What we learn is what tokenizers learns: the same tokens and merges in the same order."""
    import json
    whole = "".join(text)
    ours = json.loads(subprocess.run([PROGRAM, "train", "3000"], input=whole.encode(), stdout=subprocess.PIPE,
                                     check=True).stdout)
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = byte_level([LLAMA3])
    theirs.train_from_iterator([whole], trainers.BpeTrainer(
        vocab_size=3000, special_tokens=["<|endoftext|>"], min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made = json.loads(theirs.to_str())["model"]
    merges = [" ".join(m) if isinstance(m, list) else m for m in made["merges"]]
    right = ours["model"]["vocab"] == made["vocab"] and ours["model"]["merges"] == merges
    again = Tokenizer.from_str(json.dumps(ours)).encode(whole).ids == theirs.encode(whole).ids
    print(f"training: {len(merges)} merges from {len(whole.encode()) / 1e6:.2f} MB, {'the same' if right and again else 'others'}")
    return right and again


def against_sentencepiece(folder, training, texts):
    from gguf import GGUFWriter
    right = True
    corpus = os.path.join(folder, "corpus.txt")
    with open(corpus, "w", newline="\n") as file:
        file.writelines(line.replace("\n", " ").replace("\r", " ").replace("\0", "") + "\n" for line in few_letters(training))
    raw = [t.encode() for t in texts] + [b"\xff\xfeab\xc3", b"\xed\xa0\x80x", b"a\x80\x80b \xf0\x9f\x98"]
    for kind in ("bpe", "unigram"):
        for rule, prefix in (("identity", False), ("identity", True), ("nmt_nfkc", True)):
            if rule == "nmt_nfkc" and kind == "bpe":
                continue
            # In a lattice, what a user defines only has a better score; GGUF's readers cut there all the same.
            of_user = ["<html>", "▁▁", "▁▁▁", "\n"] if kind == "bpe" else []
            prefix_of = os.path.join(folder, "spm")
            sentencepiece.SentencePieceTrainer.train(
                input=corpus, model_prefix=prefix_of, model_type=kind, vocab_size=3000, byte_fallback=True,
                character_coverage=0.99, normalization_rule_name=rule, add_dummy_prefix=prefix,
                remove_extra_whitespaces=rule != "identity", user_defined_symbols=of_user,
                minloglevel=2, hard_vocab_limit=False)
            theirs = sentencepiece.SentencePieceProcessor(model_file=prefix_of + ".model")
            path = prefix_of + ".gguf"
            writer = GGUFWriter(path, "test")
            count = range(theirs.vocab_size())
            types = [2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else
                     5 if theirs.is_unused(i) else 1 for i in count]
            pieces = [theirs.id_to_piece(i) for i in count]
            for i in count:
                if pieces[i] in of_user:
                    types[i], pieces[i] = 4, pieces[i].replace("▁", " ")
            writer.add_tokenizer_model("llama" if kind == "bpe" else "t5")
            writer.add_token_list(pieces)
            writer.add_token_scores([theirs.get_score(i) for i in count])
            writer.add_token_types(types)
            writer.add_unk_token_id(theirs.unk_id())
            writer.add_add_space_prefix(prefix)
            writer.add_bool("tokenizer.ggml.remove_extra_whitespaces", rule != "identity")
            if rule != "identity":
                writer.add_precompiled_charsmap(charsmap(prefix_of + ".model"))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            # Where a user's token begins the text, SentencePiece puts its blank before that; GGUF's readers do not.
            some = [t for t in raw if not prefix or not of_user or
                    not t.replace("▁".encode(), b" ").startswith((b" ", b"\n", b"<html>"))]
            right &= compare(f"SentencePiece {kind}, {rule}{', prefix' if prefix else ''}", some,
                             tokens_of(path, "", some)[0], [theirs.encode(t) for t in some])
    return right


def charsmap(model):
    """The compiled map in a SentencePiece model, which is a protocol buffer: field 2 of field 3."""
    def fields(data):
        at = 0
        def number():
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value
        while at < len(data):
            key = number()
            if key & 7 == 0:
                yield key >> 3, number()
            elif key & 7 == 2:
                length = number()
                yield key >> 3, data[at:at + length]
                at += length
            else:
                length = 4 if key & 7 == 5 else 8
                yield key >> 3, data[at:at + length]
                at += length
    with open(model, "rb") as file:
        normalizer = next(value for field, value in fields(file.read()) if field == 3)
    return next(value for field, value in fields(normalizer) if field == 2)


def main():
    training = sample_text(400_000, 1)
    texts = ODDITIES + sample_text(MEGABYTES * 1e6, 2)
    for path in sys.argv[3:]:
        with open(path, encoding="utf-8", errors="ignore", newline="") as file:
            lines = file.read().split("\n")
        texts += ["\n".join(lines[i:i + 20]) for i in range(0, len(lines), 20)]
    with tempfile.TemporaryDirectory() as folder:
        right = training_against_tokenizers(training) & against_tokenizers(folder, training, texts)
        if sentencepiece:
            right &= against_sentencepiece(folder, training, texts)
    sys.exit(0 if right else 1)


main()

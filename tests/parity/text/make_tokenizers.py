"""Tokenizers built like those of Llama, Mistral, Qwen, Gemma, GPT-2 and SmolLM, and the ids that Hugging Face's library
gives for texts that tell them apart: tokenizers.json and ids.json beside this script, for tests/parity/text_test.ts.

    venv/bin/pip install -r tests/interop/requirements.txt
    venv/bin/python tests/parity/text/make_tokenizers.py CORPUS.txt

CORPUS.txt is any English text (Tiny Shakespeare was used). The vocabularies are of a few hundred tokens; normalizer,
pre-tokenizer, decoder, post-processor and added tokens are each family's own.
"""
import json
import pathlib
import random
import sys
import tempfile

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
corpus = pathlib.Path(sys.argv[1]).read_text()[:150_000].splitlines(keepends=True)
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def special(*names, **more):
    return [AddedToken(name, special=True, normalized=False, **more) for name in names]


def byte_level(t, size, first=()):
    t.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=size, special_tokens=special(*first), initial_alphabet=ALPHABET, show_progress=False))
    return t


def begins_with(t, token, before=()):
    template = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B:1", special_tokens=[(token, t.token_to_id(token))])
    t.post_processor = processors.Sequence([*before, template]) if before else template


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    byte_level(t, 360)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens(special("<|endoftext|>"))
    return t


def smollm():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    return byte_level(t, 360, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"])


def qwen2():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
               r"\s+(?!\S)|\s+")
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    byte_level(t, 360)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    t.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<tool_call>", "</tool_call>", "<think>")])
    return t


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
               r"\s*[\r\n]+|\s+(?!\S)|\s+")
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    byte_level(t, 360)
    t.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    begins_with(t, "<|begin_of_text|>", [processors.ByteLevel(trim_offsets=False)])
    return t


def mistral_nemo():
    """Tekken: case-sensitive classes of letters with their marks, digits one by one, BOS."""
    t = Tokenizer(models.BPE(ignore_merges=True))
    upper, lower = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
    pattern = (rf"[^\r\n\p{{L}}\p{{N}}]?[{upper}]*[{lower}]+|[^\r\n\p{{L}}\p{{N}}]?[{upper}]+[{lower}]*|\p{{N}}|"
               r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    byte_level(t, 360, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    begins_with(t, "<s>")
    return t


def pieces(normalizer, pre_tokenizer, names, size):
    """A vocabulary of SentencePiece's kind: spaces are marks, bytes serve what has no piece."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer, t.pre_tokenizer = normalizer, pre_tokenizer
    t.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=size, special_tokens=names + BYTES, show_progress=False))
    spec = json.loads(t.to_str())
    spec["model"].update(byte_fallback=True, fuse_unk=True)
    spec["added_tokens"] = [a for a in spec["added_tokens"] if a["content"] in names]
    return spec


def llama2():
    """As converted first (`legacy`): the normalizer prepends a mark to every stretch between special tokens."""
    spec = pieces(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
                  pre_tokenizers.Split("▁", "merged_with_next"), ["<unk>", "<s>", "</s>"], 400)
    spec["pre_tokenizer"] = None
    t = Tokenizer.from_str(json.dumps(spec))
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    begins_with(t, "<s>")
    return t


def mistral():
    """As converted since 2024: a mark before the first stretch alone, control tokens of the v3 vocabulary."""
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"]
    spec = pieces(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
                  pre_tokenizers.Split("▁", "merged_with_next"), names, 400)
    spec["normalizer"] = None
    t = Tokenizer.from_str(json.dumps(spec))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    begins_with(t, "<s>")
    return t


def gemma():
    """No mark in front; runs of line ends and of spaces are words of the vocabulary, added beside it."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    spec = pieces(normalizers.Replace(" ", "▁"), pre_tokenizers.Split("▁", "merged_with_next"), names, 400)
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    for half in ("▁", "▁▁"):
        vocab[half + half] = len(vocab)
        merges.append([half, half])
    t = Tokenizer.from_str(json.dumps(spec))
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_special_tokens(special("<start_of_turn>", "<end_of_turn>"))
    t.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "<table>")])
    begins_with(t, "<bos>")
    return t


KINDS = {
    "gpt2": (gpt2, "GPT2Tokenizer", dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>")),
    "smollm": (smollm, "GPT2Tokenizer", dict(bos_token="<|im_start|>", eos_token="<|im_end|>")),
    "qwen2": (qwen2, "Qwen2Tokenizer", dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")),
    "llama3": (llama3, "PreTrainedTokenizerFast", dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")),
    "mistral_nemo": (mistral_nemo, "PreTrainedTokenizerFast", dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")),
    "llama2": (llama2, "LlamaTokenizer", dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=True,
                                               add_bos_token=True, add_eos_token=False)),
    "mistral": (mistral, "LlamaTokenizer", dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=False,
                                                 add_bos_token=True, add_eos_token=False)),
    "gemma": (gemma, "GemmaTokenizer", dict(bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>",
                                             add_bos_token=True, add_eos_token=False)),
}

TEXTS = [
    "", " ", "  ", "\n", "\n\n\n\n", "\t", "Hello, world!", " leading", "trailing ", "two  spaces   three", "a\n b\n  c",
    "naïve café", "nai\u0308ve cafe\u0301", "Å Å", "ﬁ ﬀ ½ Ⅻ ²", "日本語テキスト", "한국어 텍스트", "مرحبا بالعالم", "שלום",
    "Привет, МИР", "ΑΒΓ αβγ", "🙂", "👩\u200d👩\u200d👧 family", "🇩🇪🇫🇷", "e\u200db", "zero\u200bwidth", "nb\u00a0sp", "wide\u3000space",
    "line\u2028sep", "a\u0000b", "bell\u0007", "\ufeffbom", "\u0915\u094d\u0937", "12345 1 22 333 4444", "3.14159", "1,234,567.89", "٣٤٥",
    "don't WON'T we'll I'VE it'S", "'quoted' \"double\"", "snake_case camelCase SCREAMING", "a+b=c; x->y; /* z */", "def f(x):\n    return x\n",
    "http://example.org/a?b=c&d=%20", "<|im_start|>user\nhi<|im_end|>\n", "<s>[INST] hi [/INST] yo</s>", "a</s>b", "a </s> b",
    "<bos><start_of_turn>user\nhi<end_of_turn>\n", "<|endoftext|>text<|endoftext|>", "<|begin_of_text|>x", "<tool_call>{}</tool_call>",
    "▁already▁marked", "▁▁ two marks", "x" * 60, "ab" * 30, "tab\tand\r\nreturn\rline", "\r\n\r\n", "end.\n\n  Begin", "<table>\n\n\n<table>",
    "ROMEO:\nBut, soft! what light through yonder window breaks?", "ALLCAPS wOrDs MiXeD", "…—–‘’“”", "\ud7ff\ue000", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
]
CUT = len(TEXTS)
# pieces of all kinds, one after the other
POOL = ["a", "the", " ", "  ", "\n", "\n\n", "\t", "'s", "'LL", "é", "e\u0301", "ö", "日", "本", "🙂", "\u200d", "1", "23", "456", ".", "!?", "-", "_",
        "<s>", "</s>", "<|im_end|>", "<eos>", "[INST]", "▁", "Ж", "ß", "İ", "ǅ", "ʰ", "\u0301", "\u00a0", "\u3000", "½", "Ⅷ", "ﬁ", "\r", "/", "ROMEO"]
rng = random.Random(7)
TEXTS += ["".join(rng.choice(POOL) for _ in range(rng.randint(2, 14))) for _ in range(160)]

out = {"versions": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__}, "texts": TEXTS, "kinds": {}}
built = {}
for name, (make, cls, config) in KINDS.items():
    t = make()
    built[name] = json.loads(t.to_str())
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "tokenizer.json").write_text(t.to_str())
        (path / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": cls}))
        plain = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(path / "tokenizer.json"),
            **{k: v for k, v in config.items() if k.endswith("_token") and isinstance(v, str)})
        named = transformers.AutoTokenizer.from_pretrained(folder)
        apart = [text for text in TEXTS if named(text, add_special_tokens=False).input_ids != plain(text, add_special_tokens=False).input_ids]
        bos_apart = sum(named(text).input_ids != plain(text).input_ids for text in TEXTS) - len(apart)
        print(name, len(t.get_vocab()), type(named).__name__, "apart", len(apart), bos_apart, [repr(x) for x in apart[:6]])
        out["kinds"][name] = {
            "config": {**config, "tokenizer_class": cls},
            # texts of which the class that tokenizer_config.json names makes something else than tokenizer.json says
            "apart": len(apart),
            "ids": [plain(text).input_ids for text in TEXTS],
            "plain": [plain(text, add_special_tokens=False).input_ids for text in TEXTS],
            # what is left of a text without its last token, which may be a part of a character
            "cut": [plain.decode(plain(text, add_special_tokens=False).input_ids[:-1], clean_up_tokenization_spaces=False)
                    for text in TEXTS[:CUT]],
            "decoded": [plain.decode(plain(text, add_special_tokens=False).input_ids, clean_up_tokenization_spaces=False) for text in TEXTS],
        }
for kind in out["kinds"].values():  # what is as expected is left out
    kind["decoded"] = {str(i): d for i, (d, text) in enumerate(zip(kind["decoded"], TEXTS)) if d != text}
    first = [a[: len(a) - len(b)] for a, b in zip(kind["ids"], kind["plain"])]
    assert all(f == first[0] and a == f + b for f, a, b in zip(first, kind["ids"], kind["plain"]))
    kind["first"] = first[0]
    del kind["ids"]
dump = lambda value: json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"
(HERE / "tokenizers.json").write_text(dump(built))
(HERE / "ids.json").write_text(dump(out))

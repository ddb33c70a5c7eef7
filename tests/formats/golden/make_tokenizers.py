"""Small vocabularies and the token ids that the reference libraries give for some texts.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3
    python make_tokenizers.py > tokenizers.json

Byte-level: the merges are trained on text that is not cut into words, so they reach across words, digits and line
ends, and the ids show where each pre-tokenizer cuts. The pre-tokenizers are put together as the tokenizer.json files of
SmolLM2, Llama 3, Qwen2 and GPT-2 have them. SentencePiece: a BPE model with byte fallback, as Llama 2's is.
"""
import io
import json

import sentencepiece as spm
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TRAIN = [
    "It's 2024: I've 12345 apples, they'll cost $3.50 each.\n\nDon't worry!\n  Be happy 100 times; 007 and 1999.",
    "the cat and the dog and the 42 birds\r\nwe're here, I'M THERE\n\n\n  the end...",
    "naïve café déjà vu, Größe, привет мир, 東京は日本の首都です, 12 and 12 and 123 and 1234",
] * 4
TEXTS = [
    "It's 12345 and they'll DON'T 007",
    "the cat\n\n  and the dog\r\n\r\n and  the   end  ",
    "naïve cafe\u0301 привет 東京 😀 x² ٣٤",
    "(the) [and] the...the,and!!! $3.50",
    "\t\ttabs\n \n and\u00a0nbsp",
    "'s 'S 're 'RE I'M we'Ve",
]
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
split = lambda digits: pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(WORDS % digits), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
])
gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
PRE = {
    "gpt-2": (gpt2, None, False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]), None, False),
    "llama-bpe": (split(r"\p{N}{1,3}"), None, True),
    "qwen2": (split(r"\p{N}"), normalizers.NFC(), False),
}

trained = Tokenizer(models.BPE())
trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
trained.train_from_iterator(TRAIN, trainers.BpeTrainer(
    vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
model = json.loads(trained.to_str())["model"]
tokens = sorted(model["vocab"], key=model["vocab"].get)
merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
byte_level = {"tokens": tokens, "merges": merges, "ids": {}}
for name, (pre, normalizer, ignore) in PRE.items():
    t = Tokenizer(models.BPE(model["vocab"], [tuple(m.split(" ")) for m in merges], ignore_merges=ignore))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    byte_level["ids"][name] = [t.encode(text).ids for text in TEXTS]

out = io.BytesIO()
spm.SentencePieceTrainer.train(
    sentence_iterator=iter("\n".join(TRAIN).splitlines()), model_writer=out, vocab_size=420, model_type="bpe",
    byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
    split_digits=True, minloglevel=2, allow_whitespace_only_pieces=True)
sp = spm.SentencePieceProcessor(model_proto=out.getvalue())
n = sp.vocab_size()
kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
texts = TEXTS + ["", " ", "the", " the", "unseen: ☃ 𝕏"]
sentencepiece = {
    "tokens": [sp.id_to_piece(i) for i in range(n)],
    "scores": [sp.get_score(i) for i in range(n)],
    "types": [kind(i) for i in range(n)],
    "texts": texts,
    "ids": [sp.encode(text) for text in texts],
    "decoded": [sp.decode(sp.encode(text)) for text in texts],
}
print(json.dumps({"texts": TEXTS, "byte_level": byte_level, "sentencepiece": sentencepiece}, ensure_ascii=True))

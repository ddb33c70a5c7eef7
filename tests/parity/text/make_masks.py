"""Chat templates rendered by Transformers, and labels as TRL's SFTTrainer prepares and collates them: renders.json and
masks.json beside this script, for tests/parity/text_test.ts. Run make_tokenizers.py before.

    venv/bin/pip install -r tests/interop/requirements.txt
    venv/bin/python tests/parity/text/make_masks.py HANDBOOK

HANDBOOK is a checkout of alignment-handbook's recipes. Their templates are not stored, only what they render.
"""
import datetime
import hashlib
import json
import pathlib
import sys
import tempfile

import datasets
import torch
import transformers
import trl
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils
from trl import SFTConfig, SFTTrainer

HERE, HANDBOOK = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1])
TOKENIZERS = json.loads((HERE / "tokenizers.json").read_text())
KINDS = json.loads((HERE / "ids.json").read_text())["kinds"]
datasets.disable_progress_bars()


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 7, 4, 15, 5)


chat_template_utils.datetime = Frozen  # templates that print the date


def tokenizer(kind, template=None):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(TOKENIZERS[kind]))
        file.flush()
        names = {k: v for k, v in KINDS[kind]["config"].items() if k.endswith("_token") and isinstance(v, str)}
        tok = PreTrainedTokenizerFast(tokenizer_file=file.name, **names)
    tok.pad_token = tok.pad_token or tok.eos_token
    tok.chat_template = template
    return tok


def turns(*contents, system=None):
    out = [dict(role="system", content=system)] if system is not None else []
    return out + [dict(role=("user", "assistant")[i % 2], content=c) for i, c in enumerate(contents)]


CHATS = [
    turns("hi", "yo"),
    turns("What is 2+2?", "4.", "And 3+3?", "  It is 6. ", system="Be brief."),
    turns("naïve 🙂\n", "日本\nline two\n\n", "hi ", "\tyo", system=""),
    turns("one", "1", "two", "2", "three", "3"),
]
VARIABLES = {"smollm3/sft/sft.yaml": [
    {}, {"enable_thinking": False}, {"enable_thinking": True},
    {"xml_tools": [{"name": "add", "description": "é <b>", "parameters": {"a": {"type": "number"}}}]},
    {"python_tools": ["def add(a, b): ..."]}]}

renders = []
templates = {}
for path in sorted(HANDBOOK.rglob("*.yaml")):
    template = yaml.safe_load(path.read_text()).get("chat_template")
    if template is None:
        continue
    recipe = str(path.relative_to(HANDBOOK))
    templates[recipe] = template
    entry = {"recipe": recipe, "sha256": hashlib.sha256(template.encode()).hexdigest(), "renders": []}
    if any(r["sha256"] == entry["sha256"] for r in renders):  # same template, same renders
        entry["renders"] = None
        renders.append(entry)
        continue
    for kind in ("smollm", "llama2", "gemma"):
        tok = tokenizer(kind, template)
        for chat, messages in enumerate(CHATS):
            for variables in VARIABLES.get(recipe, [{}]):
                whole = tok.apply_chat_template(messages, tokenize=False, **variables)
                entry["renders"].append({
                    "kind": kind, "chat": chat, "variables": variables, "text": whole,
                    # what a prompt for an answer adds to the conversation without its last turn
                    "prompt": tok.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True, **variables),
                    "ids": tok.apply_chat_template(messages, tokenize=True, return_dict=False, **variables),
                })
    renders.append(entry)
for entry in renders:  # the ids follow from the text where the tokenizer is right: a digest is enough
    for r in entry["renders"] or []:
        r["ids"] = hashlib.sha256(json.dumps(r["ids"], separators=(",", ":")).encode()).hexdigest()[:16]
        if len(r["text"]) > 600:
            for key in ("text", "prompt"):
                r[key] = {"length": len(r[key]), "sha256": hashlib.sha256(r[key].encode()).hexdigest()}

# loss masks
GENERATION = ("{% for m in messages %}{% if m.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}{% generation %}"
              "{{- m.content + '<|im_end|>' }}{%- endgeneration %}{{ '\n' -}}{% else %}"
              "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' -}}{% endif %}")
PAIRS = [dict(prompt="What is 2+2? ", completion="It is 4."), dict(prompt="Name a colour:", completion=" Red\n"),
         dict(prompt="naïve 🙂 ", completion="日本 ok"), dict(prompt="Q: 12\nA:", completion=" 34, of course; and more of it")]
WORDS = "But soft what light through yonder window breaks it is the east and I am the sun arise fair".split()
TEXTS = [dict(text=" ".join(WORDS[i:i + n])) for i, n in ((0, 9), (3, 2), (1, 14), (5, 6), (0, 1), (7, 4), (2, 11))]
CONVERSATIONS = [dict(messages=m) for m in CHATS + [turns("a", "b"), turns("a longer question, of more words", "no")]]
SMOLLM3 = [dict(messages=turns(*c, system="/system_override Be kind. /no_think"))
           for c in (["hi", "yo"], ["one", "1", "two", " 2 "], ["naïve 🙂", "日本\nline two"])]
ANSWERS = [dict(prompt=m[:-1], completion=m[-1:]) for m in CHATS]

CASES = [
    ("assistant-only", "qwen2", GENERATION, CONVERSATIONS, dict(assistant_only_loss=True)),
    ("assistant-only, another vocabulary", "smollm", GENERATION, CONVERSATIONS, dict(assistant_only_loss=True)),
    ("assistant-only, cut", "smollm", GENERATION, CONVERSATIONS, dict(assistant_only_loss=True, max_length=24)),
    ("assistant-only, cut at the start", "smollm", GENERATION, CONVERSATIONS,
     dict(assistant_only_loss=True, max_length=24, truncation_mode="keep_end")),
    ("assistant-only, SmolLM3's template", "smollm", "smollm3/sft/sft.yaml", SMOLLM3, dict(assistant_only_loss=True)),
    ("whole conversations", "smollm", GENERATION, CONVERSATIONS, {}),
    ("completion-only, texts", "llama3", None, PAIRS, {}),
    ("completion-only, texts with marks", "llama2", None, PAIRS, {}),
    ("completion-only, texts without BOS", "qwen2", None, PAIRS, {}),
    ("prompt and completion", "llama3", None, PAIRS, dict(completion_only_loss=False)),
    ("completion-only, conversations", "smollm", GENERATION, ANSWERS, {}),
    ("texts", "llama3", None, TEXTS, {}),
    ("packed, best fit", "smollm", GENERATION, CONVERSATIONS, dict(assistant_only_loss=True, packing=True, max_length=64)),
    ("packed, best fit with pieces", "llama3", None, TEXTS, dict(packing=True, max_length=16, packing_strategy="bfd_split")),
    ("packed, best fit of completions", "llama3", None, PAIRS, dict(packing=True, max_length=48)),
    ("packed, wrapped", "llama3", None, TEXTS, dict(packing=True, max_length=16, packing_strategy="wrapped")),
]

masks = []
with tempfile.TemporaryDirectory() as out:
    for name, kind, template, rows, settings in CASES:
        tok = tokenizer(kind, templates.get(template, template))
        model = LlamaForCausalLM(LlamaConfig(vocab_size=512, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                             num_attention_heads=1, num_key_value_heads=1))
        args = SFTConfig(output_dir=out, report_to="none", use_cpu=True, bf16=False, shuffle_dataset=False,
                         per_device_train_batch_size=2, **{"max_length": 512, **settings})
        trainer = SFTTrainer(model=model, args=args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tok)
        data = trainer.train_dataset
        columns = [c for c in ("input_ids", "labels", "seq_lengths") if c in data.column_names]
        examples = [{c: data[i][c] for c in columns} for i in range(len(data))]
        step = 1 if settings.get("packing") else 2
        batches = []
        for at in range(0, len(examples), step):
            batch = trainer.data_collator(examples[at:at + step])
            batches.append({key: batch[key].tolist() for key in ("input_ids", "labels", "position_ids") if key in batch})
        masks.append({"name": name, "kind": kind, "recipe": template if template in templates else None,
                      "template": None if template in templates else template, "settings": settings, "rows": rows,
                      "batches": batches})
        print(name, len(rows), len(examples), [len(e["input_ids"]) for e in examples])

versions = {m.__name__: m.__version__ for m in (transformers, trl, datasets, torch)}
dump = lambda value: json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"
(HERE / "renders.json").write_text(dump({"versions": versions, "chats": CHATS, "templates": renders}))
(HERE / "masks.json").write_text(dump({"versions": versions, "cases": masks}))

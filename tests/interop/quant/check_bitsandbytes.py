"""Transformers with bitsandbytes on what nibble quantized; then the reverse, for read.ts."""
import json
import warnings

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from interop import check, exact_bitsandbytes, run
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

warnings.filterwarnings("ignore")
torch.set_num_threads(2)
torch._dynamo.config.disable = True  # bitsandbytes would compile a function of some lines for every shape
exact_bitsandbytes()
IDS = torch.tensor([[1, 17, 5, 60, 33, 2, 41, 8, 8, 25, 3, 52]])
NAMES = ["nf4_double", "nf4", "fp4", "fp4_double", "fp4_128", "nf4_bf16", "bf16_storage", "skipping", "gpt2"]


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits[0].float()


def load(folder, **more):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **more).eval()


def distance(got, want):
    return (got - want).abs().max().item() / want.abs().max().item()


for name in NAMES:

    @check(f"Transformers with bitsandbytes loads nibble's {name}: same logits")
    def _(folder, name=name):
        source = folder / "nibble" / name
        case = json.loads((source / "case.json").read_text())
        model = load(source)
        layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
        assert len(layers) == case["quantizedLayers"], (len(layers), case)
        # A file in bfloat16 is computed with in bfloat16, whatever `dtype` says; nibble computes in f32.
        for p in model.parameters():
            if p.is_floating_point() and not isinstance(p, Params4bit):  # whose bytes may be labelled bfloat16
                p.data = p.data.float()
        for layer in layers:
            layer.compute_dtype = torch.float32
        apart = distance(load_file(source / "logits.safetensors")["logits"], logits_of(model))
        assert apart <= 1e-5, apart  # f32 sums of up to 160 terms in another order through two layers
        return f"{len(layers)} layers, largest difference {apart:.1e} of the largest logit"


def settings(name):
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=name[:3] if name[:3] in ("nf4", "fp4") else "nf4",
        bnb_4bit_use_double_quant=name not in ("nf4", "fp4"), bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head", "down_proj", "v_proj"] if name == "skipping" else None,
        bnb_4bit_quant_storage=torch.bfloat16 if name == "bf16_storage" else torch.uint8)


def beside_borders(weight, ours, theirs, state):
    """How many FP4 codes differ. Each must lie on a border between its two levels: bitsandbytes' PyTorch backend compares
    with midpoints where its CUDA kernels, and nibble, have decimal literals such as 0.00260417."""
    values = torch.tensor([0, 0.0052083333, 0.6666667, 1, 0.3333333, 0.5, 0.1666667, 0.25])
    levels = torch.cat([values, -values])  # code 8 is a zero too: CUDA gives it to negatives, PyTorch to positives
    codes = [torch.stack([p.view(-1) >> 4, p.view(-1) & 15], 1).view(-1).long() for p in (ours, theirs)]
    a, b = (levels[c] for c in codes)
    differ = (a != b).nonzero().view(-1)
    scaled = weight.reshape(-1, state["blocksize"])
    scaled = (scaled / scaled.abs().amax(1, keepdim=True)).view(-1)
    for i in differ.tolist():
        assert abs(scaled[i] - (a[i] + b[i]) / 2) < 1e-6, (i, scaled[i], a[i], b[i])
    return len(differ)


@check("what bitsandbytes quantizes from the same weights is nibble's file byte for byte")
def _(folder):
    count, differ, lut, flips = 0, 0, 0, 0
    for name, base in (("nf4_double", "llama"), ("nf4", "llama"), ("fp4_double", "llama"), ("fp4", "llama"),
                       ("bf16_storage", "llama"), ("skipping", "llama"), ("gpt2", "gpt2")):
        own = load(folder / "base" / base, quantization_config=settings(name)).state_dict()
        nibble = load_file(folder / "nibble" / name / "model.safetensors")
        weights = load_file(folder / "base" / base / "model.safetensors")
        marked = [key for key in nibble if ".quant_state." in key]
        assert len(marked) == len([key for key in own if ".quant_state." in key])
        for mark in marked:
            weight = mark[:mark.index(".quant_state.")]
            for key in [k for k in own if k == weight or k.startswith(weight + ".")]:
                ours, theirs = nibble[key], own[key]
                count += 1
                if key != mark:
                    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (name, key, ours.shape, theirs.shape)
                if key == weight:  # as bytes: labelled bfloat16, some are no number, which equals nothing
                    ours, theirs = ours.view(torch.uint8), theirs.view(torch.uint8)
                if torch.equal(ours, theirs):
                    continue
                if key == weight and name.startswith("fp4"):
                    state = json.loads(bytes(nibble[mark].tolist()))
                    flips += beside_borders(weights[weight], ours, theirs, state)
                    continue
                differ += 1
                if key.endswith(".absmax") and ours.dtype == torch.uint8:  # bitsandbytes' table of 65,536 bins
                    assert (ours.int() - theirs.int()).abs().max() <= 1, (name, key)
                    lut += int((ours != theirs).sum())
                    continue
                if key.endswith(".nested_absmax"):
                    assert torch.allclose(ours, theirs, rtol=3e-7), (name, key)
                    continue
                assert key == mark, (name, key)
                a, b = (json.loads(bytes(t.tolist())) for t in (ours, theirs))  # the offset, a mean, to an ulp or two
                assert abs(a.pop("nested_offset") / b.pop("nested_offset") - 1) <= 3e-7, (name, key)
                assert a == b, (name, a, b)
    return f"{count} tensors; {differ} differ, in offsets by an ulp or two and in {lut} scales by one step; {flips} FP4 codes on a border"


@check("models that Transformers quantized are left for nibble")
def _(folder):
    for name, base in (("nf4_double", "llama"), ("nf4", "llama"), ("fp4", "llama"), ("fp4_double", "llama"),
                       ("skipping", "llama"), ("bf16_storage", "llama"), ("gpt2", "gpt2")):
        model = load(folder / "base" / base, quantization_config=settings(name))
        target = folder / "python" / name
        model.save_pretrained(target)
        save_file({"logits": logits_of(model)}, target / "logits.safetensors")
        (target / "case.json").write_text(
            json.dumps({"layers": len([m for m in model.modules() if isinstance(m, Linear4bit)])}))


run()

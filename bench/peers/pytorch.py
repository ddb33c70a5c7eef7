"""PyTorch, PEFT and bitsandbytes on the processor as a peer of bench/peers.ts: no GPU, a yardstick for the machine.

The protocol is that of serve.ts, the numbers are those of task.ts.
"""
import json
import os
import sys
import time

import numpy as np
import torch

RANK, SCALE = 16, 2
MODULES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]

torch.set_num_threads(os.cpu_count())


def numbers(n, seed):
    """The linear congruential sequence of bench/shapes.ts: s[i] = a^(i+1) seed + c (1 + a + ... + a^i)."""
    powers = np.multiply.accumulate(np.full(n, 1664525, np.uint32), dtype=np.uint32)
    before = np.concatenate([np.ones(1, np.uint32), powers[:-1]])
    s = powers * np.uint32(seed) + np.uint32(1013904223) * np.add.accumulate(before, dtype=np.uint32)
    return torch.from_numpy((s.view(np.int32) / 2**31).astype(np.float32))


def product(p):
    layout, m, n, k = p["layout"], p["M"], p["N"], p["K"]
    x = numbers(m * k, 1).view((k, m) if layout == "tn" else (m, k))
    w = numbers(n * k, 2).view((n, k) if layout == "nt" else (k, n))
    x, w = x.T if layout == "tn" else x, w.T if layout == "nt" else w
    return lambda: x @ w


def product4(p):
    import bitsandbytes as bnb
    x = numbers(p["M"] * p["K"], 1).view(p["M"], p["K"])
    w = numbers(p["N"] * p["K"], 2).view(p["N"], p["K"])
    codes, state = bnb.functional.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")
    return lambda: bnb.matmul_4bit(x, codes.t(), quant_state=state)


def step(task):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32) if task["quantized"] else None
    base = AutoModelForCausalLM.from_pretrained(
        task["folder"], dtype=torch.float32, quantization_config=quantization, device_map="cpu")
    lora = LoraConfig(r=RANK, lora_alpha=SCALE * RANK, lora_dropout=0.0, target_modules="all-linear",
                      task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in trained.items():
            _, _, rest = name.partition("layers.")
            layer, _, rest = rest.partition(".")
            module, _, half = rest.partition(".lora_")
            i = int(layer) * len(MODULES) + MODULES.index(module)
            p.copy_(0.05 * numbers(p.numel(), 2 * i + (101 if half[0] == "A" else 102)).view(p.shape))
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4) if task["optimizer"] else None
    size, vocabulary = (task["batch"], task["time"]), task["config"]["vocab_size"]
    ids = ((numbers(size[0] * size[1], 7).double() + 1) / 2 * vocabulary).long().remainder(vocabulary).view(size)

    def gradients():
        for p in trained.values():
            p.grad = None
        loss = model(input_ids=ids, labels=ids).loss  # shifted, mean over all but the last of each sequence
        loss.backward()
        return loss

    def run():
        gradients()
        if optimizer:
            optimizer.step()

    def values(_):
        loss = float(gradients())
        return [loss, float(sum((p.grad.double() ** 2).sum() for p in trained.values()) ** 0.5)]

    return run, values


def open_task(task):
    if task["kind"] == "step":
        return step(task)
    run = {"product": product, "product4": product4}[task["kind"]](task["product"])
    return run, lambda at: [float(v) for v in run().flatten()[at]]


def answer(request):
    global work
    if "about" in request:
        import bitsandbytes
        import peft
        return {"about": f"PyTorch {torch.__version__}, PEFT {peft.__version__}, bitsandbytes "
                         f"{bitsandbytes.__version__}, {torch.get_num_threads()} threads of the processor"}
    if "open" in request:
        work = None
        work = open_task(request["open"])
        return {"ok": True}
    if "values" in request:
        return {"values": work[1](request["values"])}
    started = time.perf_counter()
    for _ in range(request["time"]):
        work[0]()
    return {"ms": 1000 * (time.perf_counter() - started)}


work = None
out, sys.stdout = sys.stdout, sys.stderr  # libraries talk
for line in sys.stdin:
    try:
        reply = answer(json.loads(line))
    except Exception as error:
        reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(reply), file=out, flush=True)

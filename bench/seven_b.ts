/**
 * A real step of the 7B recipe at 1 x 128 tokens with generated weights, quantized tensor by tensor as they are made:
 * plan against device by kind, and the host's memory, as a Markdown table. It takes a quarter of an hour on two
 * cores. Run with `deno run -A bench/seven_b.ts [--layers=N] [--key=value ...]`; fewer layers have the same shapes.
 * @module
 */
import { gpu, mib } from "../lib/gpu/mod.ts";
import { KNOWN_CONFIGS } from "../lib/model/known_configs.ts";
import { measureRun, TABLE_HEAD, tableRows } from "./memory_run.ts";
import { option } from "./report.ts";

const layers = Number(option("layers", "32"));
const config = { ...KNOWN_CONFIGS["mistralai/Mistral-7B-v0.1"], num_hidden_layers: layers };
const { plan, result, hostBytes } = await measureRun("recipes/zephyr-7b-beta/sft/config_qlora.yaml", [
  "--random_weights",
  `--nibble_model_config=${JSON.stringify(config)}`,
  "--max_length=128",
  "--max_steps=1",
  "--gradient_accumulation_steps=1",
  "--warmup_ratio=0",
  "--logging_steps=1",
  "--do_eval=false",
  "--eval_on_start=false",
  "--eval_strategy=no",
  "--save_strategy=no",
  ...Deno.args.filter((word) => !word.startsWith("--layers=")),
]);
// the run itself ends with an error where an adapter has not moved
const [log] = result.logs;
if (!log || !Number.isFinite(log.loss) || !(log.grad_norm > 0)) throw new Error(`loss ${log?.loss}`);
const device = result.memory.heldPeakBytes;
console.log([
  `\n${gpu().name}: ${layers} layers, loss ${log.loss.toFixed(4)}, gradient norm ${
    log.grad_norm.toFixed(4)
  }, ` +
  `every adapter moved, ${result.seconds.toFixed(0)} s in all\n`,
  ...TABLE_HEAD,
  ...tableRows(`7B QLoRA, 1 x 128, ${layers} layers`, plan.memory, result.memory),
  "",
  `total ${(result.memory.peakBytes / 1e9).toFixed(2)} GB, planned ${
    (plan.memory.peakBytes / 1e9).toFixed(2)
  } GB`,
  `host  ${mib(hostBytes)} anonymous at most; less the ${
    mib(device)
  } that a software adapter's device held: ` +
  mib(hostBytes - device),
].join("\n"));
Deno.exit(0); // the device keeps the process alive

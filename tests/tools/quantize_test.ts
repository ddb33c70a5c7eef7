/** `deno task quantize` as a user types it. */
import assert from "node:assert/strict";
import { join } from "@std/path";
import { command } from "./command.ts";

const quantize = (...args: string[]) => command("tools/quantize.ts", ...args);

Deno.test("quantize: help on its own, status 2 without arguments, and errors that say the remedy", async () => {
  const help = await quantize("--help");
  assert.equal(help.code, 0);
  assert.match(help.out, /^Usage: deno task quantize /);
  assert.equal((await quantize("--model", "assets/models/tiny")).code, 2);
  const wrong = await quantize("--model", "assets/models/tiny", "--output", "x", "--dtype", "int7");
  assert.deepEqual(
    [wrong.code, /--dtype is 'int7', not one of float32/.test(wrong.err)],
    [1, true],
    wrong.err,
  );
  const type = await quantize(
    "--model",
    "assets/models/tiny",
    "--output",
    "x",
    "--bnb_4bit_quant_type",
    "nf5",
  );
  assert.deepEqual([type.code, /'nf5', not one of nf4, fp4/.test(type.err)], [1, true], type.err);
  const storage = await quantize(
    ...["--model", "assets/models/tiny", "--output", "x", "--bnb_4bit_quant_storage", "int8"],
  );
  assert.deepEqual(
    [storage.code, /'int8', not one of uint8, float16/.test(storage.err)],
    [1, true],
    storage.err,
  );
  const file = await quantize("--model", "assets/models/tiny", "--output", "README.md");
  assert.match(file.err, /^error: A file stands where the output folder should be/m);
  const size = await quantize("--model", "assets/models/tiny", "--output", "x", "--bnb_4bit_blocksize", "48");
  assert.deepEqual([size.code, /Unsupported block size 48/.test(size.err)], [1, true], size.err);
});

Deno.test("quantize: a folder with tokenizer and quantization_config, half the size or less", async () => {
  const folder = await Deno.makeTempDir();
  const output = join(folder, "tiny-4bit");
  const { code, out, err } = await quantize(
    ...["--model", "assets/models/tiny", "--output", output, "--bnb_4bit_quant_type", "fp4"],
    ...["--no-bnb_4bit_use_double_quant", "--llm_int8_skip_modules", "o_proj, down_proj"],
    ...["--bnb_4bit_quant_storage", "float16"],
  );
  assert.equal(code, 0, err);
  assert.match(out, /25 linear layers quantized.*10 left dense/);
  assert.match(out, /model\.safetensors: \d/);
  const config = JSON.parse(Deno.readTextFileSync(join(output, "config.json"))).quantization_config;
  assert.equal(config.bnb_4bit_quant_type, "fp4");
  assert.equal(config.bnb_4bit_use_double_quant, false);
  assert.equal(config.bnb_4bit_quant_storage, "float16");
  assert.ok(config.llm_int8_skip_modules.includes("model.layers.4.mlp.down_proj"));
  for (
    const name of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
  ) {
    assert.ok(Deno.statSync(join(output, name)).isFile, name);
  }
  await Deno.remove(folder, { recursive: true });
});

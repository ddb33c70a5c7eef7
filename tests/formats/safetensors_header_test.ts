import { join } from "@std/path";
import { openSafetensors } from "../../lib/formats/safetensors.ts";
import { writeSafetensors } from "../../lib/formats/safetensors_write.ts";
import { rawSafetensors, temporaryFolder, throwsCode } from "./support.ts";

const entry = (dtype: string, shape: number[], begin: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

Deno.test("malformed files: each fault is named", () => {
  using folder = temporaryFolder();
  const open = (bytes: Uint8Array) => () => openSafetensors(folder.file("bad.safetensors", bytes));
  const refuse = (header: unknown, data: number, code: string, ...words: string[]) =>
    throwsCode(
      open(rawSafetensors(header, data)),
      `formats/safetensors-${code}`,
      "bad.safetensors",
      ...words,
    );

  throwsCode(
    () => openSafetensors(join(folder.path, "no.safetensors")),
    "formats/missing-file",
    "no.safetensors",
  );
  throwsCode(() => openSafetensors(folder.path), "formats/not-a-file");
  throwsCode(open(new Uint8Array(7)), "formats/safetensors-truncated", "7 bytes");
  throwsCode(
    open(rawSafetensors({}, 0, 1n << 62n)),
    "formats/safetensors-header-length",
    "4611686018427387904",
  );
  throwsCode(open(rawSafetensors({}, 0, 500n)), "formats/safetensors-truncated", "500");
  refuse("{not json", 0, "header-json");
  refuse([1], 0, "header-json");
  refuse({ __metadata__: { a: 1 } }, 0, "metadata");
  refuse({ w: 3 }, 0, "entry", '"w"');
  refuse({ w: entry("F31", [1], 0, 4) }, 4, "dtype", "F31", '"w"');
  refuse({ w: entry("F32", [-1], 0, 4) }, 4, "shape", '"w"');
  refuse({ w: entry("F32", [1.5], 0, 4) }, 4, "shape");
  refuse({ w: { dtype: "F32", shape: [1], data_offsets: [0] } }, 4, "offsets");
  refuse({ w: entry("F32", [1], 4, 0) }, 4, "offsets", "before");
  refuse({ w: entry("F32", [2], 0, 8) }, 4, "truncated", '"w"', "4 data bytes");
  refuse({ w: entry("F32", [2], 0, 4) }, 4, "size", "8 bytes");
  refuse({ w: entry("F32", [2 ** 40, 2 ** 40], 0, 4) }, 4, "size");
  refuse({ a: entry("U8", [3], 0, 3), b: entry("U8", [3], 2, 5) }, 5, "overlap", '"b"');
  refuse({ a: entry("U8", [2], 0, 2), b: entry("U8", [2], 3, 5) }, 5, "hole", '"b"');
  refuse({ a: entry("U8", [2], 0, 2) }, 5, "hole", "last 3 bytes");
});

Deno.test("a file cut anywhere is refused when it is opened", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "whole.safetensors");
  writeSafetensors(path, [{ name: "w", dtype: "F32", shape: [4], data: new Float32Array(4) }]);
  const whole = Deno.readFileSync(path);
  for (let cut = 0; cut < whole.length; cut++) {
    throwsCode(
      () => openSafetensors(folder.file("cut.safetensors", whole.slice(0, cut))),
      "formats/safetensors-truncated",
      "cut.safetensors",
    );
  }
});

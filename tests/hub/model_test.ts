import assert from "node:assert/strict";
import { join } from "@std/path";
import { fetchModel } from "../../lib/hub/mod.ts";
import {
  cacheOf,
  failsWith,
  type FakeRepo,
  names,
  QUICK,
  REPO,
  sha256,
  startHub,
  WEIGHTS,
  withHome,
} from "./fake_hub.ts";

const NEEDED = [
  "README.md",
  "chat_template.jinja",
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "tokenizer.json",
  "tokenizer_config.json",
];
Deno.test("a Hub id: needed files only, in huggingface_hub's layout, then from the cache without a request", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url + "/" }, async (home) => {
    const progress = new Map<string, number[]>();
    const onProgress = (p: { file: string; done: number; total: number }) => {
      assert.ok(p.done <= p.total);
      progress.set(p.file, [...(progress.get(p.file) ?? []), p.done]);
    };
    const folder = await fetchModel("org/tiny", { ...QUICK, onProgress });
    const root = cacheOf(home, "org/tiny");
    assert.equal(folder, join(root, "snapshots", hub.commit("org/tiny")));
    assert.deepEqual(names(folder), NEEDED);
    assert.deepEqual(Deno.readFileSync(join(folder, "model.safetensors")), WEIGHTS);
    assert.equal(Deno.readLinkSync(join(folder, "model.safetensors")), `../../blobs/${sha256(WEIGHTS)}`);
    assert.equal(Deno.readTextFileSync(join(root, "refs", "main")), hub.commit("org/tiny"));
    // git hash-object of '{}' is known; the layout names small files by it.
    assert.equal(
      Deno.readLinkSync(join(folder, "generation_config.json")),
      "../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b",
    );
    assert.ok(names(join(root, "blobs")).every((n) => !n.endsWith(".incomplete")));
    assert.deepEqual([...progress.keys()].sort(), NEEDED);
    assert.equal(progress.get("model.safetensors")?.at(-1), WEIGHTS.length);
    const requests = hub.seen.length;
    assert.equal(await fetchModel("org/tiny"), folder);
    assert.equal(hub.seen.length, requests, "a whole model in the cache needs no network");
  });
});

Deno.test("the token goes to the Hub and never to the host it redirects to", async () => {
  await using hub = startHub({ "org/tiny": { ...REPO, token: "hf_secret" } });
  await withHome({ HF_ENDPOINT: hub.url, HF_TOKEN: "hf_secret" }, async () => {
    await fetchModel("org/tiny", QUICK);
    const [own, other] = ["hub", "cdn"].map((host) => hub.seen.filter((s) => s.host === host));
    assert.ok(own!.length > 0 && own!.every((s) => s.authorization === "Bearer hf_secret"));
    assert.ok(other!.length > 0 && other!.every((s) => s.authorization === null));
  });
});

Deno.test("the token that a login stored under HF_HOME is used", async () => {
  await using hub = startHub({ "org/tiny": { ...REPO, token: "stored" } });
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    Deno.env.set("HF_HOME", join(home, "hf"));
    Deno.mkdirSync(join(home, "hf"));
    Deno.writeTextFileSync(join(home, "hf", "token"), "stored\n");
    const folder = await fetchModel("org/tiny", QUICK);
    assert.ok(folder.startsWith(join(home, "hf", "hub", "models--org--tiny")));
  });
});

Deno.test("revisions: a branch, a pull request and a commit; an unknown one is named", async () => {
  const other = { "config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "other weights" };
  await using hub = startHub({ "org/tiny": { ...REPO, lfs: [], revisions: { "refs/pr/1": other } } });
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    const folder = await fetchModel("org/tiny", { ...QUICK, revision: "refs/pr/1" });
    assert.equal(Deno.readTextFileSync(join(folder, "model.safetensors")), "other weights");
    const ref = join(cacheOf(home, "org/tiny"), "refs", "refs", "pr", "1");
    assert.equal(Deno.readTextFileSync(ref), hub.commit("org/tiny", "refs/pr/1"));
    const commit = hub.commit("org/tiny");
    assert.ok((await fetchModel("org/tiny", { ...QUICK, revision: commit })).endsWith(commit));
    const gone = fetchModel("org/tiny", { ...QUICK, revision: "v9" });
    await assert.rejects(gone, failsWith("hub/no-revision", 'no revision "v9"', hub.url));
  });
});

Deno.test("gated, private and absent repositories each say what to do", async () => {
  await using hub = startHub({
    "org/gated": { ...REPO, token: "good", gated: true },
    "org/private": { ...REPO, token: "good" },
  });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    const fetched = (id: string, token?: string) => fetchModel(id, token ? { ...QUICK, token } : QUICK);
    await assert.rejects(
      fetched("org/gated"),
      failsWith("hub/gated", `${hub.url}/org/gated`, "Set HF_TOKEN"),
    );
    await assert.rejects(
      fetched("org/gated", "bad"),
      failsWith("hub/gated", "accept the conditions", "not enough"),
    );
    await assert.rejects(
      fetched("org/private"),
      failsWith("hub/no-repository", "org/private", "Set HF_TOKEN"),
    );
    await assert.rejects(fetched("org/absent"), failsWith("hub/no-repository", "org/absent"));
    assert.ok(hub.seen.length <= 4, "refusals are not tried again");
    assert.ok(await fetched("org/gated", "good"));
  });
});

Deno.test("sharded weights: the index and its shards; a snapshot with one shard gone is completed", async () => {
  const weight_map = { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" };
  const files = {
    "config.json": "{}",
    "tokenizer.json": "{}",
    "model.safetensors.index.json": JSON.stringify({ weight_map }),
    "model-00001-of-00002.safetensors": "one",
    "model-00002-of-00002.safetensors": "two",
    "consolidated.safetensors": "the same again",
  };
  await using hub = startHub({ "org/big": { kind: "model", files } });
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    const folder = await fetchModel("org/big", QUICK);
    assert.ok(!names(folder).includes("consolidated.safetensors"));
    // As an older huggingface_hub leaves it: no list of files.
    Deno.removeSync(join(cacheOf(home, "org/big"), "trees"), { recursive: true });
    hub.seen.length = 0;
    await fetchModel("org/big", QUICK);
    assert.equal(hub.seen.length, 0, "the index says that it is whole");
    Deno.removeSync(join(folder, "model-00002-of-00002.safetensors"));
    assert.equal(await fetchModel("org/big", QUICK), folder);
    assert.equal(Deno.readTextFileSync(join(folder, "model-00002-of-00002.safetensors")), "two");
    const loads = hub.seen.filter((s) => s.path.includes("/resolve/"));
    assert.equal(loads.length, 0, "its blob was still there");
  });
});

Deno.test("GGUF repositories: the one file, the one named, or the question which", async () => {
  const one: FakeRepo = { kind: "model", files: { "README.md": "", "m.Q4_0.gguf": "GGUF0" } };
  const two: FakeRepo = { kind: "model", files: { "m.Q4_0.gguf": "GGUF0", "sub/m.Q8_0.gguf": "GGUF8" } };
  await using hub = startHub({ "org/one": one, "org/two": two });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    const path = await fetchModel("org/one", QUICK);
    assert.ok(path.endsWith("/m.Q4_0.gguf"));
    assert.equal(await fetchModel("org/one", QUICK), path);
    await assert.rejects(fetchModel("org/two", QUICK), failsWith("hub/which-gguf", "org/two/m.Q4_0.gguf"));
    const named = await fetchModel("org/two/sub/m.Q8_0.gguf", QUICK);
    assert.equal(Deno.readTextFileSync(named), "GGUF8");
  });
});

Deno.test("a repository with pickled weights only is refused before anything is fetched", async () => {
  await using hub = startHub({
    "org/old": { kind: "model", files: { "config.json": "{}", "pytorch_model.bin": "x" } },
  });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    await assert.rejects(
      fetchModel("org/old", QUICK),
      failsWith("hub/no-weights", "pytorch_model.bin", "can run code"),
    );
    assert.ok(!hub.seen.some((s) => s.path.includes("/resolve/")));
  });
});

Deno.test("offline: the cache serves, and what it lacks is an error that says so", async () => {
  await using hub = startHub({ "org/tiny": REPO, "org/other": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    const folder = await fetchModel("org/tiny", QUICK);
    hub.seen.length = 0;
    Deno.env.set("HF_HUB_OFFLINE", "1");
    assert.equal(await fetchModel("org/tiny", QUICK), folder);
    await assert.rejects(fetchModel("org/other", QUICK), failsWith("hub/not-found", "HF_HUB_OFFLINE"));
    assert.equal(hub.seen.length, 0);
  });
});

Deno.test("no way to the Hub: the error names every place that was looked at", async () => {
  await withHome({ HF_ENDPOINT: "http://127.0.0.1:9" }, async (home) => {
    const here = join(Deno.cwd(), "org", "tiny");
    await assert.rejects(
      fetchModel("org/tiny", { ...QUICK, base: join(home, "recipes") }),
      failsWith(
        "hub/not-found",
        here,
        join(home, "recipes", "org", "tiny"),
        cacheOf(home, "org/tiny"),
        "127.0.0.1:9",
      ),
    );
  });
});

Deno.test("a host that is no Hub, a path that climbs out and a hash that is a name are refused", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    hub.trouble = () => new Response("<html>Log in to the hotel's network</html>");
    await assert.rejects(fetchModel("org/tiny", QUICK), failsWith("hub/not-a-hub", "HF_ENDPOINT"));
    for (
      const entry of [{ path: "../../evil.json", oid: "0".repeat(40) }, {
        path: "config.json",
        oid: "../../evil",
      }]
    ) {
      hub.trouble = ({ path }) =>
        path.includes("/tree/") ? Response.json([{ type: "file", size: 1, ...entry }]) : undefined;
      await assert.rejects(fetchModel("org/tiny", QUICK), failsWith("hub/not-a-hub"));
    }
    assert.deepEqual(names(home), [".cache"].filter((n) => names(home).includes(n)));
  });
});

Deno.test("local paths: folder, .gguf, relative to the recipe; other files and unknown paths are errors", async () => {
  await withHome({ HF_HUB_OFFLINE: "1" }, async (home) => {
    Deno.mkdirSync(join(home, "recipes", "model"), { recursive: true });
    Deno.writeTextFileSync(join(home, "m.gguf"), "GGUF");
    Deno.writeTextFileSync(join(home, "model.safetensors"), "");
    assert.equal(await fetchModel("~/m.gguf"), join(home, "m.gguf"));
    assert.equal(
      await fetchModel("./model", { base: join(home, "recipes") }),
      join(home, "recipes", "model"),
    );
    await assert.rejects(fetchModel(join(home, "model.safetensors")), failsWith("hub/not-a-model", "folder"));
    await assert.rejects(fetchModel("./absent"), failsWith("hub/not-found", join(Deno.cwd(), "absent")));
    await assert.rejects(fetchModel("../absent.gguf"), failsWith("hub/not-found", "absent.gguf"));
    await assert.rejects(fetchModel(""), failsWith("hub/not-found"));
  });
});

Deno.test("an endpoint that is no address, redirects in a circle, a file that is not there: each is said", async () => {
  await withHome({ HF_ENDPOINT: "huggingface.co" }, async () => {
    await assert.rejects(
      fetchModel("org/tiny", QUICK),
      failsWith("hub/endpoint", "HF_ENDPOINT", "https://host"),
    );
  });
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    hub.trouble = ({ path }) => new Response(null, { status: 302, headers: { location: path } });
    await assert.rejects(fetchModel("org/tiny", QUICK), failsWith("hub/redirects", hub.url, "HF_ENDPOINT"));
    hub.trouble = ({ host, path }) =>
      host === "hub" && path.endsWith("config.json")
        ? new Response("", { status: 404, headers: { "x-error-code": "EntryNotFound" } })
        : undefined;
    await assert.rejects(
      fetchModel("org/tiny", QUICK),
      failsWith("hub/no-file", "org/tiny has no file config.json", "main"),
    );
  });
});

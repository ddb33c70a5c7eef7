import assert from "node:assert/strict";
import { join } from "@std/path";
import { fetchModel } from "../../lib/hub/mod.ts";
import {
  cacheOf,
  failsWith,
  names,
  QUICK,
  REPO,
  serve,
  sha256,
  startHub,
  truncated,
  WEIGHTS,
  withHome,
} from "./fake_hub.ts";

Deno.test("a server in trouble is tried again: 5xx, 429 with Retry-After, for the tree and for files", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    const failed = new Map<string, number>();
    hub.trouble = ({ path }) => {
      const n = failed.get(path) ?? 0;
      if (n >= 2) return undefined;
      failed.set(path, n + 1);
      return new Response(
        "busy",
        n === 0 ? { status: 503 } : { status: 429, headers: { "retry-after": "0.001" } },
      );
    };
    const folder = await fetchModel("org/tiny", QUICK);
    assert.deepEqual(Deno.readFileSync(join(folder, "model.safetensors")), WEIGHTS);
    assert.ok(failed.size > 5);
  });
});

Deno.test("a body cut short is gone on with from where it broke, in the same run", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    let cuts = 0;
    hub.trouble = (seen, body) => {
      // More cuts than tries: progress counts the tries anew.
      if (seen.host !== "cdn" || cuts >= 7) return undefined;
      cuts++;
      return truncated(body, 40_000, Number(/\d+/.exec(seen.range ?? "")?.[0] ?? 0));
    };
    const folder = await fetchModel("org/tiny", QUICK);
    assert.deepEqual(Deno.readFileSync(join(folder, "model.safetensors")), WEIGHTS);
    const ranges = hub.seen.filter((s) => s.host === "cdn").map((s) => s.range);
    assert.deepEqual(ranges, [null, ...Array.from({ length: 7 }, (_, i) => `bytes=${40_000 * (i + 1)}-`)]);
  });
});

Deno.test("a later run goes on with the partial file of an earlier one", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    hub.trouble = (seen, body) =>
      seen.host !== "cdn"
        ? undefined
        : seen.range === null
        ? truncated(body, 1000)
        : new Response("no", { status: 500 });
    await assert.rejects(
      fetchModel("org/tiny", QUICK),
      failsWith("hub/not-found", `the Hub at ${hub.url}`, "answered 500", cacheOf(home, "org/tiny")),
    );
    const partial = join(cacheOf(home, "org/tiny"), "blobs", `${sha256(WEIGHTS)}.incomplete`);
    assert.equal(Deno.statSync(partial).size, 1000);
    hub.trouble = undefined;
    hub.seen.length = 0;
    const folder = await fetchModel("org/tiny", QUICK);
    assert.deepEqual(Deno.readFileSync(join(folder, "model.safetensors")), WEIGHTS);
    assert.deepEqual(hub.seen.filter((s) => s.host === "cdn").map((s) => s.range), ["bytes=1000-"]);
  });
});

Deno.test("a server without ranges, and a partial file that is longer than the whole, start anew", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    const blobs = join(cacheOf(home, "org/tiny"), "blobs");
    Deno.mkdirSync(blobs, { recursive: true });
    const partial = join(blobs, `${sha256(WEIGHTS)}.incomplete`);
    Deno.writeFileSync(partial, WEIGHTS.subarray(0, 5000));
    hub.trouble = (seen, body) => seen.host === "cdn" ? serve({ ...seen, range: null }, body) : undefined;
    const folder = await fetchModel("org/tiny", QUICK);
    assert.deepEqual(Deno.readFileSync(join(folder, "model.safetensors")), WEIGHTS);
    Deno.removeSync(join(blobs, sha256(WEIGHTS)));
    Deno.writeFileSync(partial, new Uint8Array(WEIGHTS.length + 7));
    assert.deepEqual(
      Deno.readFileSync(join(await fetchModel("org/tiny", QUICK), "model.safetensors")),
      WEIGHTS,
    );
  });
});

Deno.test("content with the wrong hash never gets the file's name; a spoilt partial file is fetched anew", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async (home) => {
    const spoilt = WEIGHTS.slice();
    spoilt[1234]! ^= 1;
    hub.trouble = (seen) => seen.host === "cdn" ? serve(seen, spoilt) : undefined;
    await assert.rejects(
      fetchModel("org/tiny", QUICK),
      failsWith("hub/wrong-hash", "model.safetensors", sha256(WEIGHTS), sha256(spoilt)),
    );
    const blobs = join(cacheOf(home, "org/tiny"), "blobs");
    assert.ok(!names(blobs).some((n) => n.startsWith(sha256(WEIGHTS))));
    hub.trouble = undefined;
    Deno.writeFileSync(join(blobs, `${sha256(WEIGHTS)}.incomplete`), spoilt.subarray(0, 2000));
    assert.deepEqual(
      Deno.readFileSync(join(await fetchModel("org/tiny", QUICK), "model.safetensors")),
      WEIGHTS,
    );
  });
});

Deno.test("small files are checked by git's hash, and one longer than announced is refused", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    hub.trouble = ({ path }) =>
      path.endsWith("/config.json") ? new Response('{"model_type":"LLAMA"}') : undefined;
    await assert.rejects(fetchModel("org/tiny", QUICK), failsWith("hub/wrong-hash", "config.json"));
    hub.trouble = ({ path }) =>
      path.endsWith("/config.json") ? new Response('{"model_type":"llama"} ') : undefined;
    await assert.rejects(fetchModel("org/tiny", QUICK), failsWith("hub/wrong-size", "config.json"));
  });
});

Deno.test("two programs that want the same model at once fetch each file once", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url }, async () => {
    const [a, b] = await Promise.all([fetchModel("org/tiny", QUICK), fetchModel("org/tiny", QUICK)]);
    assert.equal(a, b);
    assert.deepEqual(Deno.readFileSync(join(a, "model.safetensors")), WEIGHTS);
    assert.equal(hub.seen.filter((s) => s.host === "cdn").length, 1);
  });
});

Deno.test("a connection that falls silent is given up and gone on with", async () => {
  await using hub = startHub({ "org/tiny": REPO });
  await withHome({ HF_ENDPOINT: hub.url, HF_HUB_DOWNLOAD_TIMEOUT: "0.3" }, async () => {
    let stalls = 0;
    hub.trouble = (seen, body) => {
      if (seen.host !== "cdn" || stalls++ > 0) return undefined;
      return new Response(new ReadableStream({ start: (c) => c.enqueue(body.slice(0, 1000)) }));
    };
    const folder = await fetchModel("org/tiny", QUICK);
    assert.deepEqual(Deno.readFileSync(join(folder, "model.safetensors")), WEIGHTS);
    assert.deepEqual(hub.seen.filter((s) => s.host === "cdn").map((s) => s.range), [null, "bytes=1000-"]);
  });
});

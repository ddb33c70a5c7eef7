import assert from "node:assert/strict";
import { join } from "@std/path";
import { fetchModel } from "../../lib/hub/mod.ts";
import { openHubRepo } from "../../lib/hub/push.ts";
import { failsWith, type FakeHub, QUICK, startHub, WEIGHTS, withHome } from "./fake_hub.ts";

/** Runs `work` beside a fresh Hub whose only account is `writer`, with that account's token in the environment. */
async function withHub(
  work: (hub: FakeHub, home: string) => Promise<void>,
  token = "hf_writer",
): Promise<void> {
  await using hub = startHub({});
  await withHome({ HF_ENDPOINT: hub.url, ...(token ? { HF_TOKEN: token } : {}) }, (home) => work(hub, home));
}

Deno.test("push: what is uploaded comes back by fetching, large files by git-lfs", async () => {
  await withHub(async (hub, home) => {
    Deno.writeFileSync(join(home, "w"), WEIGHTS);
    const repo = await openHubRepo("tiny", QUICK);
    assert.deepEqual([repo.id, repo.url, repo.branch], ["writer/tiny", `${hub.url}/writer/tiny`, "main"]);
    const oid = await repo.upload([
      { path: "config.json", text: '{"model_type":"llama"}' },
      { path: "tokenizer.json", text: "{}" },
      { path: "model.safetensors", from: join(home, "w") },
    ], "First");
    assert.match(oid, /^[0-9a-f]{40}$/);
    assert.deepEqual(hub.pushes, [{
      repo: "writer/tiny",
      branch: "main",
      title: "First",
      files: { "config.json": "regular", "tokenizer.json": "regular", "model.safetensors": "lfs" },
    }]);
    const folder = await fetchModel("writer/tiny", QUICK);
    assert.deepEqual(Deno.readFileSync(join(folder, "model.safetensors")), WEIGHTS);
    assert.equal(Deno.readTextFileSync(join(folder, "config.json")), '{"model_type":"llama"}');
    // what is stored already is not sent again
    const before = hub.seen.filter((s) => s.host === "cdn").length;
    await repo.upload([{ path: "copy.safetensors", from: join(home, "w") }], "Second");
    assert.equal(hub.seen.filter((s) => s.host === "cdn").length, before);
    assert.equal(hub.pushes.length, 2);
  });
});

Deno.test("push: a large file goes in parts, and a lost part is sent again", async () => {
  await withHub(async (hub, home) => {
    hub.partSize = 100_000;
    Deno.writeFileSync(join(home, "w"), WEIGHTS);
    const repo = await openHubRepo("writer/parts", QUICK);
    let failures = 0;
    hub.trouble = (seen) =>
      seen.path.endsWith("/2") && failures++ < 2 ? new Response("busy", { status: 503 }) : undefined;
    await repo.upload([{ path: "model.safetensors", from: join(home, "w") }], "Parts");
    assert.equal(failures, 3, "twice refused, then taken");
    assert.deepEqual(hub.repos["writer/parts"]!.files["model.safetensors"], WEIGHTS);
  });
});

Deno.test("push: a Hub in trouble is asked again, and given up with the place of what was trained", async () => {
  await withHub(async (hub) => {
    const repo = await openHubRepo("tiny", QUICK);
    let left = 2;
    hub.trouble = (seen) =>
      seen.path.includes("/commit/") && left-- > 0 ? new Response("", { status: 502 }) : undefined;
    await repo.upload([{ path: "a.txt", text: "a" }], "After trouble");
    assert.equal(hub.pushes.length, 1);
    hub.trouble = (seen) => seen.path.includes("/commit/") ? new Response("", { status: 500 }) : undefined;
    await assert.rejects(
      repo.upload([{ path: "b.txt", text: "b" }], "Lost"),
      failsWith("hub/push", "writer/tiny", "answered 500", "output_dir"),
    );
    hub.trouble = (seen) =>
      seen.path.includes("/preupload/") ? Response.json({ error: "Too long" }, { status: 413 }) : undefined;
    await assert.rejects(
      repo.upload([{ path: "b.txt", text: "b" }], "Lost"),
      failsWith("hub/push", "Too long"),
    );
  });
});

Deno.test("push: a repository that exists is used, private and branch as asked", async () => {
  await withHub(async (hub) => {
    await openHubRepo("tiny", { ...QUICK, private: true });
    assert.equal(hub.repos["writer/tiny"]!.private, true);
    const again = await openHubRepo("tiny", { ...QUICK, branch: "v1.0" });
    await again.upload([{ path: "a.txt", text: "a" }], "On a branch");
    assert.deepEqual(Object.keys(hub.repos["writer/tiny"]!.revisions!["v1.0"]!), ["a.txt"]);
    assert.deepEqual(hub.repos["writer/tiny"]!.files, {}, "main is as it was");
    await openHubRepo("tiny", { ...QUICK, branch: "v1.0" });
  });
});

Deno.test("push: tokens that will not do are told before anything is made", async () => {
  await withHub(async (hub) => {
    await assert.rejects(
      openHubRepo("tiny", QUICK),
      failsWith("hub/no-token", "HF_TOKEN", "--push_to_hub=false"),
    );
    assert.equal(hub.seen.length, 0);
    const with_ = (token: string) => openHubRepo("writer/tiny", { ...QUICK, token });
    await assert.rejects(with_("hf_unknown"), failsWith("hub/bad-token", "HF_TOKEN"));
    await assert.rejects(with_("hf_reader"), failsWith("hub/forbidden", "writer/tiny"));
    await assert.rejects(
      openHubRepo("someone/else", { ...QUICK, token: "hf_writer" }),
      failsWith("hub/forbidden", "someone/else", "hub_model_id"),
    );
    Deno.env.set("HF_HUB_OFFLINE", "1");
    await assert.rejects(with_("hf_writer"), failsWith("hub/offline", "--push_to_hub=false"));
    assert.deepEqual(hub.repos, {});
  }, "");
});

Deno.test("push: a token of any form serves, and never reaches the storage host", async () => {
  await withHub(async (hub, home) => {
    hub.accounts["secret-of-a-company-hub"] = { name: "company", write: true };
    Deno.writeFileSync(join(home, "w"), WEIGHTS);
    const repo = await openHubRepo("tiny", { ...QUICK, token: "secret-of-a-company-hub" });
    assert.equal(repo.id, "company/tiny");
    await repo.upload([{ path: "model.safetensors", from: join(home, "w") }], "One");
    const cdn = hub.seen.filter((s) => s.host === "cdn");
    assert.ok(cdn.length > 0 && cdn.every((s) => s.authorization === null));
  }, "");
});

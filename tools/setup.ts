/**
 * What a machine needs before nibble runs on it, provided where it can be: a WebGPU adapter, real or in software.
 * @module
 */
import { NibbleError } from "../lib/errors.ts";
import { provideSwiftShader, swiftShaderEnv } from "./swiftshader.ts";

/** An adapter as a child process saw it. */
export interface FoundAdapter {
  /** Name that the driver gives it. */
  name: string;
  /** Environment under which a child process finds it. */
  env: Record<string, string>;
}

/** Environment that every child gets: the backend on Linux, and a private folder where the session has none. */
export function baseEnv(scratch: string): Record<string, string> {
  return {
    ...(Deno.build.os === "linux"
      ? { DENO_WEBGPU_BACKEND: Deno.env.get("DENO_WEBGPU_BACKEND") ?? "vulkan" }
      : {}),
    // Without it drivers complain on every start.
    ...(Deno.env.get("XDG_RUNTIME_DIR") ? {} : { XDG_RUNTIME_DIR: scratch }),
  };
}

/**
 * Finds an adapter; where there is none, says so and provides one in software: Mesa's llvmpipe as root on Debian and
 * its kin, else SwiftShader on Linux x64. Running it again changes nothing.
 *
 * @param env environment of the child processes, from {@link baseEnv}
 * @param want `swiftshader` takes that one even where there is a better one
 * @throws {NibbleError} `setup/no-adapter` with the one command to type, where nothing can be provided
 */
export async function ensureAdapter(
  env: Record<string, string>,
  say: (text: string) => void,
  want: "any" | "swiftshader" = "any",
): Promise<FoundAdapter> {
  const linux64 = Deno.build.os === "linux" && Deno.build.arch === "x86_64";
  if (want === "any") {
    const found = await probeAdapter(env);
    if (found) return { name: found, env };
    say("No WebGPU adapter found on this machine; providing one in software.");
    const mesa = await aptAsRoot("Mesa's software driver", ["mesa-vulkan-drivers"], say) &&
      await probeAdapter(env);
    if (mesa) return { name: mesa, env };
  }
  if (linux64) {
    const shader = { ...env, ...swiftShaderEnv(await provideSwiftShader(say)) };
    const found = await probeAdapter(shader);
    if (found) return { name: found, env: shader };
    say("SwiftShader is unpacked, and Deno finds no adapter with it.");
  }
  throw new NibbleError(
    "setup/no-adapter",
    "No WebGPU adapter found, and none can be provided on this system",
    {
      remedy: oneCommand(),
    },
  );
}

/**
 * Name of the adapter that a fresh Deno finds, or nothing. In a child, since the drivers are looked up once in
 * a process's life, by the environment it started with.
 */
export async function probeAdapter(env: Record<string, string>): Promise<string | undefined> {
  const code = `const info = (await navigator.gpu?.requestAdapter())?.info;
    if (info) console.log("adapter:" + (info.description || info.device || info.vendor || "without a name"));`;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-config", "--no-lock", code],
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).output();
  return /^adapter:(.*)$/m.exec(new TextDecoder().decode(stdout))?.[1];
}

/** As root on Debian, Ubuntu and their kin: says what it installs, and installs it. Did it go well? */
export async function aptAsRoot(
  what: string,
  packages: string[],
  say: (text: string) => void,
): Promise<boolean> {
  if (Deno.build.os !== "linux" || Deno.uid() !== 0 || !isDebian()) return false;
  say(`Installing ${what}: apt-get install ${packages.join(" ")}`);
  const ok = await aptInstall(packages);
  if (!ok) say("apt-get could not install it.");
  return ok;
}

/** `apt-get update && apt-get install`, quietly; the output is shown where it fails. */
async function aptInstall(packages: string[]): Promise<boolean> {
  for (const args of [["update", "-q"], ["install", "-yq", "--no-install-recommends", ...packages]]) {
    try {
      const env = { DEBIAN_FRONTEND: "noninteractive" };
      const out = await new Deno.Command("apt-get", { args, env, stdin: "null", stderr: "piped" }).output();
      if (out.success) continue;
      console.error(new TextDecoder().decode(out.stderr).trim());
    } catch (error) {
      console.error((error as Error).message);
    }
    return false;
  }
  return true;
}

/** Debian, or made from it? */
export function isDebian(): boolean {
  return isKin("debian|ubuntu");
}

/** Is this Linux one of these families (names joined by `|`), by its os-release file? */
function isKin(family: string): boolean {
  try {
    return new RegExp(`^ID(_LIKE)?=.*(${family})`, "m").test(Deno.readTextFileSync("/etc/os-release"));
  } catch {
    return false;
  }
}

/** What a person types to get a driver here. */
function oneCommand(): string {
  if (Deno.build.os === "darwin") return "Type: softwareupdate --install --all";
  if (Deno.build.os === "windows") {
    return "Type: dism /online /add-capability /capabilityname:Tools.Graphics.DirectX~~~~0.0.1.0";
  }
  const sudo = Deno.uid() === 0 ? "" : "sudo ";
  if (isDebian()) return `Type: ${sudo}apt-get install mesa-vulkan-drivers`;
  if (isKin("fedora|rhel|centos")) return `Type: ${sudo}dnf install mesa-vulkan-drivers`;
  if (isKin("arch")) return `Type: ${sudo}pacman -S vulkan-swrast`;
  if (isKin("suse")) return `Type: ${sudo}zypper install libvulkan_lvp`;
  return "Install Mesa's Vulkan drivers (lavapipe) with your package manager.";
}

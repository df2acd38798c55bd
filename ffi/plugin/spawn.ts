/**
 * Starts the process of a plugin: Deno with few permissions, a limit of memory, a bare environment, and the descriptors
 * that it shares with this process.
 */

import { XenblkError } from "../../lib/errors.ts";
import { pathExists } from "../../lib/path_lookup.ts";
import type { PluginOptions } from "../../lib/storage/plugin/types.ts";
import { libc } from "../linux/libc.ts";

const HOST = new URL("./host.ts", import.meta.url);
/** The folder of this project: a plugin imports it, and so may read it. */
const PROJECT = new URL("../../", import.meta.url);

const F_SETFD = 2;
const FD_CLOEXEC = 1n;

/** Variables by which Deno finds its cache, and the loader Deno's libraries. The plugin cannot read them. */
const KEPT_VARIABLES = ["HOME", "DENO_DIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH"];

/** By which `import "xenblk"` finds this project from a file that belongs to none. In the package it is JavaScript. */
const IMPORTS = { xenblk: new URL(`mod${HOST.pathname.slice(-".ts".length)}`, PROJECT).href };
const IMPORT_MAP = `data:application/json,${encodeURIComponent(JSON.stringify({ imports: IMPORTS }))}`;

/** Installed as a package, this project has its dependencies in a folder beside it. */
const PACKAGES = HOST.pathname.includes("/node_modules/") ? ["--node-modules-dir=manual"] : [];

/** The files by which Deno knows a project's import map. */
const CONFIGS = ["deno.json", "deno.jsonc"];

/** What the process is told, beside what is in the options. */
export interface SharedParts {
  readonly memoryFd: number;
  readonly bellFd: number;
  readonly newsFd: number;
  readonly callFds: readonly number[];
  readonly epoch: number;
}

/** A process with its output as streams. */
export type HostProcess = Deno.ChildProcess;

/**
 * Starts it, with what {@linkcode findConfig} has found. Throws if there is no process or memory left.
 */
export function spawnHost(options: PluginOptions, shared: SharedParts, config: readonly string[]): HostProcess {
  const { module, target, readOnly, settings: { memoryBytes, permissions } } = options;
  const directory = directoryOf(module);
  // An import from elsewhere is kept in Deno's own directory.
  const writesFiles = permissions.some((each) => /^(write|import)(=|$)/.test(each));
  const parts = { ...shared, parent: Deno.pid, module, target, readOnly, memoryBytes, writesFiles };
  const command = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--quiet",
      "--no-prompt",
      "--no-lock",
      ...PACKAGES,
      ...config,
      `--v8-flags=--max-old-space-size=${Math.ceil(memoryBytes / 2 ** 20)}`,
      "--allow-ffi",
      ...permissionFlags(directory, permissions),
      HOST.href,
      JSON.stringify(parts),
    ],
    cwd: directory,
    clearEnv: true,
    env: environmentFor(permissions),
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
  const inherited = [shared.memoryFd, shared.bellFd, shared.newsFd, ...shared.callFds];
  // Nothing else can start a process in between.
  for (const fd of inherited) libc().fcntl(fd, F_SETFD, 0n);
  try {
    return command.spawn();
  } finally {
    for (const fd of inherited) libc().fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
}

/** `net=host` as `--allow-net=host`; and without an import from elsewhere, what is cached has to do. */
function permissionFlags(directory: string, permissions: readonly string[]): string[] {
  const readable = [directory, ...(PROJECT.protocol === "file:" ? [decodeURIComponent(PROJECT.pathname)] : [])];
  const named = permissions.filter((permission) => permission.startsWith("read=")).map((each) => each.slice(5));
  const reads = permissions.includes("read")
    ? ["--allow-read"]
    : [`--allow-read=${[...readable, ...named].map(withoutComma).join(",")}`];
  const others = permissions.filter((permission) => !/^read(=|$)/.test(permission));
  const imports = others.some((permission) => /^import(=|$)/.test(permission)) ? [] : ["--cached-only"];
  return [...imports, ...reads, ...merged(others)];
}

/** Deno's options take lists, and have no way to write a comma. Throws XenblkError. */
function withoutComma(path: string): string {
  if (!path.includes(",")) return path;
  throw new XenblkError(
    `Cannot allow a plugin to read ${path}: there is a comma in it, and Deno takes it for two paths`,
    { remedy: "rename it, or name a folder above it that has no comma" },
  );
}

/** Deno takes each option once: the values of a kind in one list. */
function merged(permissions: readonly string[]): string[] {
  const kinds = new Map<string, string[] | undefined>();
  for (const permission of permissions) {
    const [kind, ...rest] = permission.split("=");
    const value = rest.join("=");
    const before = kinds.has(kind!) ? kinds.get(kind!) : [];
    kinds.set(kind!, rest.length === 0 || before === undefined ? undefined : [...before, value]);
  }
  return [...kinds].map(([kind, values]) => `--allow-${kind}${values === undefined ? "" : `=${values.join(",")}`}`);
}

/** Nothing but what Deno itself needs, and what the operator allows. */
function environmentFor(permissions: readonly string[]): Record<string, string> {
  const names = permissions.includes("env")
    ? Object.keys(Deno.env.toObject())
    : permissions.filter((each) => each.startsWith("env=")).flatMap((each) => each.slice(4).split(","));
  const kept = [...KEPT_VARIABLES, ...names].flatMap((name): [string, string][] => {
    const value = Deno.env.get(name);
    return value === undefined ? [] : [[name, value]];
  });
  return { ...Object.fromEntries(kept), NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" };
}

/**
 * Deno's options for the import map of the plugin's own project, if it has one; else for one with this project alone.
 * Rejects with NoAnswerError if the file system of the module does not answer.
 */
export async function findConfig({ module }: PluginOptions): Promise<readonly string[]> {
  for (let folder = directoryOf(module);;) {
    for (const name of CONFIGS) if (await pathExists(folder + name)) return [`--config=${folder}${name}`];
    if (folder === "/") return ["--no-config", `--import-map=${IMPORT_MAP}`];
    folder = directoryOf(folder.slice(0, -1));
  }
}

/** With a slash at its end. */
function directoryOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/") + 1);
}

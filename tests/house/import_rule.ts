/**
 * Who may import whom, as one table of rooms: the floor of each, the rooms and packages that its files may import, and
 * the uses of Deno that belong to ffi alone. An import goes to a lower floor or stays in its room. This module judges
 * facts and reads no file.
 */

import type { ImportFact, SourceFacts } from "./source.ts";

/** Files that belong together. */
export interface Room {
  readonly name: string;
  /** Imports go down: a room may only import rooms of a lower floor. */
  readonly floor: number;
  /** The room's files: `a/` is all below a folder, `a/*.ts` the files right in it, anything else one path. */
  readonly files: readonly string[];
  /** Names of rooms. */
  readonly mayImport: readonly string[];
  /** Rooms that may only be imported by `import()` or as types, so that a dry run opens no library. */
  readonly mayImportDynamically?: readonly string[];
  readonly packages?: readonly string[];
}

const BASE = ["seam", "log", "parts"];
const PROTOCOL = [...BASE, "blkif", "xenbus"];
const STORAGE = ["disk", "plugin", "image", "qemu", "engine", "pool", "write_log", "filter", "storage"];
const LIB = [
  ...PROTOCOL,
  "trace",
  "figures",
  ...STORAGE,
  "host",
  "dataplane",
  "toolstack",
  "backend",
  "service",
  "attach",
];
/** Work of storage daemons beside what guests ask for. */
const JOBS = ["jobs", "backup"];
/** What the verbs use beside LIB: the surroundings of a process that serves. */
const SERVING = [...LIB, ...JOBS, "config", "metrics", "systemd", "control"];
const ROOTS = ["native.ts", "platform.ts", "mod.ts"];
const FFI = ["ffi/linux", "ffi/xen", "ffi/uring", "ffi/vhost", "ffi/plugin", "ffi"];
const KIT = ["testing", "testing.ts"];
const PRODUCT = [...SERVING, "guest", "sim", ...KIT, ...FFI, ...ROOTS, "frame", "verbs", "catalogue", "cli.ts"];
/** In full, since a program that imports the library does not have our import map. */
const LOG = ["npm:@logtape/logtape@*"];

/** The files of lib/cli that the verbs build on. */
const FRAME = [
  "args",
  "companions",
  "device_options",
  "disk_result",
  "help",
  "log_format",
  "log_writer",
  "host",
  "live",
  "live_jobs",
  "live_visits",
  "metrics",
  "options",
  "output",
  "plugin_options",
  "progress",
  "readable",
  "report",
  "serve_options",
  "signals",
  "table",
  "silent",
  "through_socket",
  "text",
  "verb",
  "visit",
];
/** The files of lib/cli that know all verbs. */
const CATALOGUE = ["catalog", "completion", "completion_words", "main"];

/** What engines, filters and those who open disks share. */
const DISK = ["channel", "disk", "errno", "open_channels", "tag_line", "vhost"].map((name) => `lib/storage/${name}.ts`);

/** The first room that holds a path is its room. */
export const ROOMS: readonly Room[] = [
  {
    name: "seam",
    floor: 0,
    files: ["lib/hypervisor.ts", "lib/errors.ts", "lib/units.ts", "lib/errno.ts"],
    mayImport: [],
  },
  { name: "log", floor: 0, files: ["lib/log.ts"], mayImport: [], packages: LOG },
  { name: "blkif", floor: 1, files: ["lib/blkif/"], mayImport: ["seam"] },
  {
    name: "service",
    floor: 9,
    files: ["lib/service.ts"],
    mayImport: LIB.filter((name) => name !== "service" && name !== "attach"),
  },
  {
    name: "attach",
    floor: 10,
    files: ["attach", "attach_to", "attached_disk", "disk_stats"].map((name) => `lib/${name}.ts`),
    mayImport: LIB.filter((name) => name !== "attach"),
  },
  { name: "jobs", floor: 5, files: ["lib/jobs/"], mayImport: [...BASE, "disk", "image", "qemu"] },
  { name: "backup", floor: 6, files: ["lib/backup/"], mayImport: [...BASE, "disk", "qemu", "jobs"] },
  { name: "control", floor: 11, files: ["lib/control/"], mayImport: [...LIB, ...JOBS] },
  { name: "host", floor: 4, files: ["lib/host_platform.ts"], mayImport: [...BASE, "disk", "plugin", "image"] },
  { name: "systemd", floor: 10, files: ["lib/systemd/"], mayImport: [...BASE, "host", "backend", "service"] },
  { name: "config", floor: 2, files: ["lib/config/"], mayImport: BASE, packages: ["npm:toml-eslint-parser@*"] },
  { name: "trace", floor: 2, files: ["lib/trace/"], mayImport: BASE, packages: ["node:zlib"] },
  { name: "figures", floor: 2, files: ["lib/figures/"], mayImport: BASE },
  { name: "parts", floor: 1, files: ["lib/*.ts"], mayImport: ["seam", "log"] },
  { name: "xenbus", floor: 2, files: ["lib/xenbus/"], mayImport: ["seam", "blkif"] },
  { name: "sim", floor: 2, files: ["lib/sim/"], mayImport: BASE },
  { name: "toolstack", floor: 3, files: ["lib/toolstack/"], mayImport: PROTOCOL },
  { name: "guest", floor: 3, files: ["lib/guest/"], mayImport: [...PROTOCOL, "trace"] },
  { name: "disk", floor: 2, files: DISK, mayImport: BASE },
  { name: "plugin", floor: 3, files: ["lib/storage/plugin/"], mayImport: [...BASE, "disk"] },
  { name: "image", floor: 3, files: ["lib/storage/image/"], mayImport: [...BASE, "disk"] },
  { name: "qemu", floor: 4, files: ["lib/storage/qemu/"], mayImport: [...BASE, "disk", "image"] },
  {
    name: "engine",
    floor: 4,
    files: ["lib/storage/engine/", "lib/storage/pool/executor_module.ts"],
    mayImport: [...BASE, "disk", "image"],
  },
  { name: "pool", floor: 5, files: ["lib/storage/pool/"], mayImport: [...BASE, "disk", "image", "engine"] },
  { name: "write_log", floor: 5, files: ["lib/storage/write_log/"], mayImport: [...BASE, "disk", "engine"] },
  { name: "filter", floor: 5, files: ["lib/storage/filter/"], mayImport: [...BASE, "trace", "disk", "engine"] },
  {
    name: "storage",
    floor: 6,
    files: ["lib/storage/*.ts"],
    mayImport: [...BASE, "disk", "plugin", "image", "qemu", "engine", "pool", "write_log", "filter"],
  },
  { name: "dataplane", floor: 7, files: ["lib/dataplane/"], mayImport: [...PROTOCOL, ...STORAGE] },
  {
    name: "backend",
    floor: 8,
    files: ["lib/backend/"],
    mayImport: [...PROTOCOL, "figures", ...STORAGE, "dataplane", "toolstack"],
  },
  { name: "ffi/linux", floor: 4, files: ["ffi/linux/"], mayImport: [...BASE, "disk", "image"] },
  { name: "ffi/xen", floor: 5, files: ["ffi/xen/"], mayImport: [...PROTOCOL, "ffi/linux"] },
  {
    name: "ffi/uring",
    floor: 5,
    files: ["ffi/uring/"],
    mayImport: [...BASE, "disk", "image", "engine", "ffi/linux"],
  },
  {
    name: "ffi/vhost",
    floor: 5,
    files: ["ffi/vhost/"],
    mayImport: [...BASE, "disk", "image", "engine", "ffi/linux"],
  },
  {
    name: "ffi/plugin",
    floor: 6,
    files: ["ffi/plugin/"],
    mayImport: [...BASE, "disk", "plugin", "engine", "ffi/linux", "ffi/vhost"],
  },
  {
    name: "ffi",
    floor: 7,
    files: ["ffi/*.ts"],
    mayImport: [
      ...PROTOCOL,
      "disk",
      "plugin",
      "image",
      "host",
      "ffi/linux",
      "ffi/xen",
      "ffi/uring",
      "ffi/vhost",
      "ffi/plugin",
    ],
  },
  { name: "testing", floor: 11, files: ["lib/testing/"], mayImport: [...LIB, "guest", "sim"] },
  { name: "testing.ts", floor: 12, files: ["testing.ts"], mayImport: [...LIB, "guest", "sim", "testing"] },
  {
    name: "platform.ts",
    floor: 11,
    files: ["platform.ts"],
    mayImport: LIB,
    mayImportDynamically: [...FFI, "sim"],
  },
  { name: "native.ts", floor: 11, files: ["native.ts"], mayImport: LIB, mayImportDynamically: FFI },
  { name: "mod.ts", floor: 12, files: ["mod.ts"], mayImport: [...LIB, "guest", "sim", "native.ts", "platform.ts"] },
  // As a program outside the checkout does, so that the same file runs there.
  { name: "examples", floor: 16, files: ["examples/"], mayImport: [], packages: ["xenblk", "xenblk/*", "node:*"] },
  {
    name: "pack",
    floor: 16,
    files: ["pack/"],
    mayImport: ["seam", "frame", "verbs", "catalogue", "cli.ts"],
    packages: ["typescript", "node:*"],
  },
  {
    name: "metrics",
    floor: 9,
    files: ["lib/metrics/"],
    mayImport: [...BASE, "figures", "backend", "jobs"],
    packages: ["npm:prom-client@*", "node:*"],
  },
  {
    name: "frame",
    floor: 12,
    files: FRAME.map((name) => `lib/cli/${name}.ts`),
    mayImport: SERVING,
    packages: ["@std/cli"],
  },
  {
    name: "catalogue",
    floor: 14,
    files: CATALOGUE.map((name) => `lib/cli/${name}.ts`),
    mayImport: [...SERVING, "frame", "verbs"],
  },
  {
    name: "verbs",
    floor: 13,
    files: ["lib/cli/"],
    mayImport: [...SERVING, "guest", "sim", "testing", "frame"],
    packages: ["node:crypto", "node:fs"],
  },
  {
    name: "cli.ts",
    floor: 15,
    files: ["cli.ts"],
    mayImport: [...SERVING, "frame", "verbs", "catalogue"],
    mayImportDynamically: FFI,
  },
  {
    name: "tests/native",
    floor: 16,
    files: ["tests/native/"],
    mayImport: PRODUCT,
    packages: ["@std/assert", "@std/cli", "node:*"],
  },
  {
    name: "bench",
    floor: 17,
    files: ["bench/*.ts"],
    mayImport: [...PRODUCT, "pack", "tests/native"],
    packages: ["node:*"],
  },
  { name: "bench/plugins", floor: 16, files: ["bench/plugins/"], mayImport: ["mod.ts"] },
  { name: "bench/plot", floor: 18, files: ["bench/plot/"], mayImport: ["bench"], packages: ["echarts"] },
  {
    name: "tests",
    floor: 19,
    files: ["tests/"],
    mayImport: [...PRODUCT, "examples", "pack", "tests/native", "bench"],
    packages: ["@std/assert", "@std/cli", "ajv", "fast-check", "typescript", "node:*"],
  },
  { name: "types", floor: 0, files: ["types/"], mayImport: [] },
];

/** The files that import modules by computed names: those that descriptors name, and a plugin in its own process. */
const COMPUTED: readonly string[] = ["lib/modules.ts", "ffi/plugin/host_module.ts"];

/** Files of data, and the rooms that may import them. */
const DATA: Readonly<Record<string, readonly string[]>> = { "deno.json": ["cli.ts"] };

/** Deno APIs that reach native code: for ffi and the tests only. */
const NATIVE = /^Deno\.(dlopen|Unsafe\w+)$/;

/** The room of a path relative to the root. */
export function roomOf(path: string): Room | undefined {
  return ROOMS.find(({ files }) => files.some((pattern) => matches(pattern, path)));
}

/** The path, relative to the root, of the module that a relative specifier in `path` names. */
export function targetOf(path: string, specifier: string): string {
  return new URL(specifier, `file:///${path}`).pathname.slice(1);
}

/** Each breach of the rule in one file, as a line for a person. */
export function importFaults(path: string, facts: SourceFacts): string[] {
  const room = roomOf(path);
  if (room === undefined) return [`${path}: no room holds it; add it to the import rule`];
  const faults = facts.imports.filter((fact) => !allows(room, path, fact)).map(({ specifier, kind }) => {
    const target = specifier.startsWith(".") ? targetOf(path, specifier) : specifier;
    return `${path} -> ${target}: not for ${room.name} (${kind} import)`;
  });
  if (!room.name.startsWith("ffi") && !path.startsWith("tests/")) {
    for (const member of new Set(facts.members)) {
      if (NATIVE.test(member)) faults.push(`${path}: ${member} belongs to ffi alone`);
    }
  }
  return faults;
}

function allows(room: Room, path: string, { specifier, kind }: ImportFact): boolean {
  if (kind === "computed") return COMPUTED.includes(path);
  if (!specifier.startsWith(".")) return (room.packages ?? []).some((name) => matches(name, specifier));
  const target = targetOf(path, specifier);
  if (DATA[target] !== undefined) return DATA[target].includes(room.name);
  const aim = roomOf(target);
  if (aim === undefined) return false;
  if (aim === room || room.mayImport.includes(aim.name)) return true;
  return kind !== "static" && (room.mayImportDynamically ?? []).includes(aim.name);
}

/** Each row of the table that lets a room import a room that is not below it. */
export function tableFaults(rooms: readonly Room[]): string[] {
  const floors = new Map(rooms.map(({ name, floor }) => [name, floor]));
  return rooms.flatMap(({ name, floor, mayImport, mayImportDynamically = [] }) =>
    [...mayImport, ...mayImportDynamically].filter((below) => (floors.get(below) ?? Infinity) >= floor)
      .map((below) => `${name} on floor ${floor} may import ${below}, which is not below it`)
  );
}

function matches(pattern: string, target: string): boolean {
  if (pattern.endsWith("/")) return target.startsWith(pattern);
  const star = pattern.indexOf("*");
  if (star < 0) return pattern === target;
  const [head, tail] = [pattern.slice(0, star), pattern.slice(star + 1)];
  const middle = target.slice(head.length, target.length - tail.length);
  return target.startsWith(head) && target.endsWith(tail) && middle !== "" && !middle.includes("/");
}

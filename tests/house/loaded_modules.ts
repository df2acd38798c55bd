/**
 * What a program loads when it starts: the modules that its entries import statically, directly or through others. Each
 * costs memory and time in every process, so the table names the rooms that each program needs. This module judges facts
 * and reads no file.
 */

import { roomOf, targetOf } from "./import_rule.ts";
import type { ImportFact } from "./source.ts";

/** A program, or a thread of one, in the most common use: raw images on a machine with io_uring. */
export interface Program {
  readonly name: string;
  /** What it loads in any case; those after the first one are loaded by `import()` or by a descriptor. */
  readonly entries: readonly string[];
  /** The rooms that it needs. */
  readonly rooms: readonly string[];
  /** Single files of other rooms. */
  readonly files?: readonly string[];
  /** Packages that it needs. */
  readonly packages: readonly string[];
}

/** A file and what it imports. */
export interface LoadedFile {
  readonly path: string;
  readonly imports: readonly ImportFact[];
}

const BASE = ["seam", "parts"];
const IMAGE = ["disk", "image", "engine"];
const LOG = "npm:@logtape/logtape@2.4.2";
const COMMAND = {
  rooms: ["cli.ts", "catalogue", "frame", "log"],
  files: ["lib/cli/error_report.ts"],
  packages: ["@std/cli", LOG],
};
const NATIVE = ["ffi/linux", "ffi/xen", "ffi/uring", "ffi"];
const BACKEND = [...COMMAND.rooms, ...BASE, ...IMAGE, "blkif", "xenbus", "pool", "dataplane", "backend", "service"];
/** Small files that say whether the rest of their rooms is needed. */
const DOORS = [
  "ffi/plugin/client.ts",
  "ffi/vhost/client.ts",
  "lib/figures/latency.ts",
  "lib/jobs/door.ts",
  "lib/jobs/job.ts",
  "lib/jobs/records.ts",
  "lib/jobs/visits.ts",
  "lib/metrics/otlp_options.ts",
  "lib/storage/filter/holding.ts",
  "lib/storage/filter/limits.ts",
  "lib/storage/filter/live.ts",
  "lib/storage/filter/options.ts",
  "lib/storage/filter/spec.ts",
  "lib/storage/filter/stack.ts",
  "lib/storage/filter/table.ts",
  "lib/storage/filter/throttle.ts",
  "lib/storage/filter/budget.ts",
  "lib/storage/filter/throttled_channel.ts",
  "lib/storage/filter/token_bucket.ts",
  "lib/storage/lazy_daemon_disks.ts",
  "lib/storage/open.ts",
  "lib/storage/plugin/settings.ts",
  "lib/storage/qemu/allow.ts",
  "lib/storage/qemu/directory.ts",
  "lib/storage/qemu/silence.ts",
  "lib/storage/serving.ts",
  "lib/storage/write_log/name.ts",
  "lib/toolstack/disks_in_use.ts",
  "lib/toolstack/domains.ts",
  "lib/toolstack/list.ts",
  "lib/toolstack/medium.ts",
  "lib/toolstack/removal.ts",
  "lib/toolstack/sharing.ts",
];

/** The programs. */
export const PROGRAMS: readonly Program[] = [
  {
    name: "xenblk --version",
    entries: ["cli.ts"],
    rooms: [...COMMAND.rooms, ...BASE],
    files: [
      ...COMMAND.files,
      "lib/systemd/environment.ts",
      "lib/systemd/journal.ts",
      "lib/toolstack/domains.ts",
      "lib/toolstack/list.ts",
      "lib/xenbus/decimal.ts",
      "lib/xenbus/paths.ts",
      "lib/xenbus/states.ts",
      "lib/xenbus/vdev.ts",
    ],
    packages: COMMAND.packages,
  },
  {
    name: "xenblk serve",
    entries: ["cli.ts", "lib/cli/serve.ts", "ffi/platform.ts", "lib/control/process.ts", "lib/control/directory.ts"],
    rooms: [...BACKEND, ...NATIVE, "host", "systemd", "control"],
    files: [
      ...COMMAND.files,
      ...DOORS,
      "lib/cli/serve.ts",
      "lib/cli/config/fault.ts",
      "lib/cli/config/file.ts",
      "lib/backend/figures.ts",
      // A disk must be detached even if an upgrade has replaced the program's files since the start.
      "lib/toolstack/attach.ts",
      "lib/toolstack/detach.ts",
      "lib/toolstack/frontend_says.ts",
      "lib/toolstack/resize.ts",
      "lib/toolstack/wait.ts",
    ],
    packages: COMMAND.packages,
  },
  {
    name: "a reactor",
    entries: ["lib/dataplane/reactor_worker.ts", "ffi/thread_platform.ts", "ffi/uring/disk.ts"],
    rooms: [...BASE, ...IMAGE, "blkif", "dataplane", ...NATIVE],
    // A disk must be limited even if an upgrade has replaced the program's files since the start.
    files: ["budget", "holding", "live", "throttled_channel", "token_bucket"].map((name) =>
      `lib/storage/filter/${name}.ts`
    ),
    packages: [],
  },
  {
    name: "a file thread",
    entries: ["lib/storage/image/file_thread.ts", "ffi/uring/image_calls.ts", "ffi/linux/lock_calls.ts"],
    rooms: [...BASE, ...IMAGE, "ffi/linux", "ffi/uring"],
    packages: [],
  },
];

/** The modules of the checkout that the entries load, and the packages. */
export function loadedBy(
  entries: readonly string[],
  files: readonly LoadedFile[],
): { readonly paths: ReadonlySet<string>; readonly packages: ReadonlySet<string> } {
  const importsOf = new Map(files.map(({ path, imports }) => [path, imports]));
  const [paths, packages] = [new Set<string>(), new Set<string>()];
  const left = [...entries];
  for (let path = left.pop(); path !== undefined; path = left.pop()) {
    if (paths.has(path)) continue;
    paths.add(path);
    for (const { specifier, kind } of importsOf.get(path) ?? []) {
      if (kind !== "static") continue;
      if (!specifier.startsWith(".")) packages.add(specifier);
      else if (specifier.endsWith(".ts")) left.push(targetOf(path, specifier));
    }
  }
  return { paths, packages };
}

/** What a program loads that is not in its row. */
export function loadFaults(program: Program, files: readonly LoadedFile[]): string[] {
  const { paths, packages } = loadedBy(program.entries, files);
  const mayLoad = (path: string): boolean =>
    program.files?.includes(path) || program.rooms.includes(roomOf(path)?.name ?? "");
  return [
    ...[...paths].filter((path) => !mayLoad(path)),
    ...[...packages].filter((name) => !program.packages.includes(name)),
  ].map((what) => `${program.name} loads ${what}`).sort();
}

/**
 * Who may import whom, as a table: for each room what its files may import, and which uses of Deno belong to ffi
 * alone. Pure: it judges facts, and reads no file.
 */

import type { ImportFact, SourceFacts } from "./source.ts";

/** What the files of a room may import: prefixes of paths in the checkout, and bare specifiers. */
interface Room {
  readonly name: string;
  readonly holds: (path: string) => boolean;
  readonly mayImport: readonly string[];
  /** Only by `import()`, so that a dry run opens no library. */
  readonly mayImportDynamically?: readonly string[];
  /** By `import()` of what is only known at run time: the modules that descriptors name. */
  readonly mayImportComputed?: boolean;
  readonly packages?: readonly string[];
}

const PURE = ["lib/hypervisor.ts", "lib/errors.ts", "lib/units.ts", "lib/errno.ts"];
const LIB_ROOMS = ["blkif", "xenbus", "storage", "dataplane", "backend", "toolstack"].map((room) => `lib/${room}/`);
/** What an engine outside lib is built from. */
const ENGINE_PARTS = [
  "disk",
  "errno",
  "engine/executor",
  "engine/operations",
  "image/file",
  "image/lock",
  "image/medium",
  "open_channels",
].map((name) => `lib/storage/${name}.ts`);

/** First match decides. */
const ROOMS: readonly Room[] = [
  { name: "the seam and the errors", holds: (path) => PURE.includes(path), mayImport: [] },
  { name: "blkif", holds: under("lib/blkif/"), mayImport: ["lib/blkif/", "lib/units.ts"] },
  { name: "xenbus", holds: under("lib/xenbus/"), mayImport: ["lib/xenbus/", "lib/blkif/", ...PURE] },
  {
    name: "the modules that descriptors name",
    holds: (path) => path === "lib/modules.ts",
    mayImport: PURE,
    mayImportComputed: true,
  },
  { name: "the verbs", holds: under("lib/cli/"), mayImport: ["lib/"], packages: ["@std/cli"] },
  {
    name: "guest",
    holds: under("lib/guest/"),
    mayImport: ["lib/guest/", ...PURE, "lib/*.ts", "lib/blkif/", "lib/xenbus/"],
  },
  // A program outside the checkout imports the library without our import map: the specifier is written in full.
  { name: "the log", holds: (path) => path === "lib/log.ts", mayImport: [], packages: ["npm:@logtape/logtape@*"] },
  {
    name: "sim",
    holds: under("lib/sim/"),
    mayImport: ["lib/sim/", ...PURE, "lib/*.ts", ...LIB_ROOMS],
  },
  { name: "lib", holds: under("lib/"), mayImport: [...PURE, "lib/*.ts", ...LIB_ROOMS] },
  {
    name: "ffi's system calls",
    holds: (path) => path.startsWith("ffi/linux/") || path.startsWith("ffi/uring/"),
    mayImport: ["ffi/linux/", "ffi/uring/", ...PURE, "lib/*.ts", ...ENGINE_PARTS],
  },
  {
    name: "ffi",
    holds: under("ffi/"),
    mayImport: ["ffi/", ...PURE, "lib/*.ts", "lib/blkif/", "lib/xenbus/", ...ENGINE_PARTS],
  },
  {
    name: "composition roots",
    holds: (path) => !path.includes("/"),
    mayImport: ["lib/", "*.ts", "deno.json"],
    mayImportDynamically: ["ffi/"],
  },
  {
    name: "tests",
    holds: under("tests/"),
    mayImport: ["tests/", "lib/", "ffi/", "bench/", "examples/", "*.ts"],
    packages: ["@std/assert", "@std/cli", "fast-check", "node:*"],
  },
  {
    name: "the picture's drawing",
    holds: under("bench/plot/"),
    mayImport: ["bench/plot.ts"],
    packages: ["echarts"],
  },
  {
    name: "bench",
    holds: under("bench/"),
    mayImport: ["bench/", "lib/", "ffi/", "tests/native/"],
    packages: ["node:*"],
  },
  { name: "examples", holds: under("examples/"), mayImport: ["mod.ts"] },
  { name: "types", holds: under("types/"), mayImport: [] },
];

/** Deno APIs that reach native code: ffi's alone (and of the tests). */
const NATIVE = /^Deno\.(dlopen|Unsafe\w+)$/;

/** Each breach of the rule, as a line for a person; `path` is relative to the root. */
export function importFaults(path: string, facts: SourceFacts): string[] {
  const room = ROOMS.find((candidate) => candidate.holds(path));
  if (room === undefined) return [`${path}: no room holds it; add it to the import rule`];
  const faults = facts.imports.filter((fact) => !allows(room, path, fact)).map((fact) =>
    `${path}: ${room.name} may not ${fact.dynamic ? "dynamically " : ""}import ${fact.specifier}`
  );
  if (!path.startsWith("ffi/") && room.name !== "tests") {
    for (const member of new Set(facts.members)) {
      if (NATIVE.test(member)) faults.push(`${path}: ${member} belongs to ffi alone`);
    }
  }
  return faults;
}

function allows(room: Room, path: string, fact: ImportFact): boolean {
  if (fact.computed) return room.mayImportComputed ?? false;
  if (!fact.specifier.startsWith(".")) return (room.packages ?? []).some((name) => matches(name, fact.specifier));
  const target = new URL(fact.specifier, `file:///${path}`).pathname.slice(1);
  const patterns = fact.dynamic || fact.typeOnly
    ? [...room.mayImport, ...(room.mayImportDynamically ?? [])]
    : room.mayImport;
  return patterns.some((pattern) => matches(pattern, target));
}

/** `a/` is all below a folder, `a/*.ts` the files right in it, anything else one exact name. */
function matches(pattern: string, target: string): boolean {
  if (pattern.endsWith("/")) return target.startsWith(pattern);
  const star = pattern.indexOf("*");
  if (star < 0) return pattern === target;
  const [head, tail] = [pattern.slice(0, star), pattern.slice(star + 1)];
  const middle = target.slice(head.length, target.length - tail.length);
  return target.startsWith(head) && target.endsWith(tail) && middle !== "" && !middle.includes("/");
}

function under(prefix: string): (path: string) => boolean {
  return (path) => path.startsWith(prefix);
}

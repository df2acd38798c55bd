/**
 * Enforces the import rule on every file: who may import whom, no import that runs up, no cycle, and native code in
 * ffi alone. Each rule is also shown to refuse a bad sample.
 */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { cycles, type Edge, edgesOf, edgeText, report, upwardEdges } from "./graph.ts";
import { importFaults, type Room, ROOMS, tableFaults } from "./import_rule.ts";
import { analyse, ROOT, typeScriptFiles } from "./source.ts";

const FILES = typeScriptFiles();
const EDGES = edgesOf(FILES);

Deno.test("every import in the checkout follows the import rule", () => {
  assertGreater(FILES.length, 5);
  assertEquals(FILES.flatMap((file) => importFaults(file.path, file)), []);
});

Deno.test("no import runs up, and the table lets none", () => {
  assertEquals(upwardEdges(EDGES).map(edgeText), []);
  assertEquals(tableFaults(ROOMS), []);
});

Deno.test("no files import each other in a cycle, type-only and dynamic imports and Workers included", () => {
  assertEquals(cycles(EDGES), []);
});

function edges(...texts: string[]): Edge[] {
  return texts.map((text) => text.split(" -> ")).map(([from, to]) => ({ from: from!, to: to! }));
}

Deno.test("the floors refuse an import that goes up, stays on a floor, or leaves the house", () => {
  const up = ["lib/backend/x.ts -> lib/service.ts", "lib/guest/x.ts -> platform.ts", "ffi/linux/x.ts -> ffi/xen/y.ts"];
  const level = ["lib/guest/x.ts -> lib/toolstack/y.ts", "lib/blkif/x.ts -> lib/clock.ts"];
  const outside = ["lib/backend/x.ts -> src/y.ts", "src/x.ts -> lib/log.ts"];
  const refused = [...up, ...level, ...outside];
  assertEquals(upwardEdges(edges(...refused)).map(edgeText), refused);
  assertEquals(upwardEdges(edges("lib/backend/x.ts -> lib/backend/y.ts", "platform.ts -> lib/sim/y.ts")), []);
});

Deno.test("a table that lets a room import upward, level or unknown rooms is refused", () => {
  const room = (name: string, floor: number, ...mayImport: string[]): Room => ({ name, floor, files: [], mayImport });
  assertEquals(tableFaults([room("low", 0), room("high", 1, "low")]), []);
  const bad = [room("low", 0, "high"), room("high", 1, "low", "beside", "none"), room("beside", 1)];
  assertEquals(tableFaults(bad).length, 3);
});

Deno.test("a cycle of two, of three, and of a file with itself are found", () => {
  const path = edges("a.ts -> b.ts", "b.ts -> c.ts", "a.ts -> c.ts");
  assertEquals(cycles(path), []);
  assertEquals(cycles([...path, ...edges("b.ts -> a.ts")]), [["a.ts", "b.ts"]]);
  assertEquals(cycles([...path, ...edges("c.ts -> a.ts")]), [["a.ts", "b.ts", "c.ts"]]);
  assertEquals(cycles(edges("a.ts -> a.ts", "d.ts -> e.ts", "e.ts -> d.ts")), [["a.ts"], ["d.ts", "e.ts"]]);
});

Deno.test("a cycle through a type, a dynamic import or a Worker's URL is one", () => {
  const back = [
    `import type { A } from "./a.ts";`,
    `type A = import("./a.ts").A;`,
    `export const a = await import("./a.ts");`,
    `new Worker(new URL("./a.ts", import.meta.url), { type: "module" });`,
  ];
  for (const text of back) {
    const files = [["lib/a.ts", `export * from "./b.ts";`], ["lib/b.ts", text]] as const;
    const found = cycles(edgesOf(files.map(([path, text]) => ({ path, imports: analyse(path, text).imports }))));
    assertEquals(found, [["lib/a.ts", "lib/b.ts"]], text);
  }
});

Deno.test("the path of another program and a computed import make no edge", () => {
  const text = `new URL("./b.ts", import.meta.url).pathname; await import(name);`;
  assertEquals(edgesOf([{ path: "lib/a.ts", imports: analyse("lib/a.ts", text).imports }]), []);
});

Deno.test("the report of the graph ends with its sums, and names what is out of order", () => {
  const file = (path: string, ...specifiers: string[]) => ({
    path,
    lineCount: 10,
    imports: specifiers.map((specifier) => ({ specifier, kind: "static" as const })),
  });
  const good = report([file("lib/guest/x.ts", "../clock.ts", "./y.ts"), file("lib/guest/y.ts"), file("lib/clock.ts")]);
  const guest = good.lines.findIndex((line) => line.includes("guest: 2 files, 20 lines"));
  assert(good.lines[guest + 1]!.trim() === "imports parts 1");
  assertEquals([good.lines.at(-1), good.inOrder], [
    `3 files, ${ROOMS.length} rooms, 0 cycles, 0 upward imports`,
    true,
  ]);
  const bad = report([file("lib/guest/x.ts", "./y.ts", "../../cli.ts"), file("lib/guest/y.ts", "./x.ts")]);
  assertEquals([bad.lines.slice(-3), bad.inOrder], [[
    "cycle: lib/guest/x.ts, lib/guest/y.ts",
    "upward: lib/guest/x.ts -> cli.ts",
    `2 files, ${ROOMS.length} rooms, 1 cycles, 1 upward imports`,
  ], false]);
});

Deno.test("the graph task prints every room and the sums, and fails if something is out of order", async () => {
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `${ROOT}tests/house/graph_main.ts`],
  }).output();
  const lines = new TextDecoder().decode(stdout).trimEnd().split("\n");
  const expected = report(FILES);
  assertEquals([lines, code], [expected.lines, expected.inOrder ? 0 : 1]);
});

/** A file that breaks a rule once. */
const BAD: readonly (readonly [why: string, path: string, text: string])[] = [
  ["the seam imports anything", "lib/hypervisor.ts", `import { x } from "./log.ts";`],
  ["blkif imports another room", "lib/blkif/abi.ts", `import type { Clock } from "../clock.ts";`],
  ["xenbus imports storage", "lib/xenbus/paths.ts", `export * from "../storage/disk.ts";`],
  ["the data plane imports the simulation", "lib/dataplane/queue.ts", `import { x } from "../sim/machine.ts";`],
  ["lib imports ffi", "lib/backend/device.ts", `import { mmap } from "../../ffi/linux/libc.ts";`],
  ["lib imports ffi dynamically", "lib/backend/device.ts", `await import("../../ffi/linux/libc.ts");`],
  ["lib imports ffi as a type", "lib/backend/device.ts", `type M = import("../../ffi/linux/libc.ts").M;`],
  ["lib imports a root", "lib/storage/open.ts", `import { openPlatform } from "../../platform.ts";`],
  ["a worker imports a root dynamically", "lib/dataplane/a_worker.ts", `await import("../../platform.ts");`],
  ["a worker of a higher room", "lib/storage/open.ts", `new URL("../dataplane/reactor_worker.ts", import.meta.url);`],
  ["an engine imports what opens disks", "lib/storage/engine/null.ts", `import { openDisk } from "../open.ts";`],
  ["a room imports the service", "lib/backend/kind.ts", `import { Service } from "../service.ts";`],
  ["a verb imports ffi", "lib/cli/doctor/verb.ts", `await import("../../../ffi/linux/library.ts");`],
  ["the command's frame imports a verb", "lib/cli/args.ts", `import { serve } from "./serve.ts";`],
  ["lib outside the verbs parses arguments", "lib/backend/device.ts", `import { parseArgs } from "@std/cli";`],
  ["ffi imports policy", "ffi/xen/gnttab.ts", `import { Device } from "../../lib/backend/device.ts";`],
  ["a root imports ffi statically", "platform.ts", `import { open } from "./ffi/platform.ts";`],
  ["the library imports a test tool", "lib/storage/open.ts", `import { assert } from "@std/assert";`],
  ["a JSR specifier", "tests/x_test.ts", `import { assert } from "jsr:@std/assert";`],
  ["a URL", "cli.ts", `import "https://example.org/x.ts";`],
  ["a package without an alias", "lib/cli/args.ts", `import x from "npm:deno-std/cli/mod.js";`],
  ["a second file that logs by itself", "lib/service.ts", `import x from "npm:@logtape/logtape@2.4.2";`],
  ["an example that reaches into the library", "examples/x.ts", `import { x } from "../lib/attach.ts";`],
  ["a worker imports the simulation", "lib/storage/pool/io_worker.ts", `import "../../sim/platform.ts";`],
  ["io_uring's engine imports Xen", "ffi/uring/engine.ts", `import { N } from "../xen/evtchn.ts";`],
  ["a computed import", "cli.ts", "const verb = 'x'; await import(`./ffi/${verb}.ts`);"],
  ["lib opens a library", "lib/storage/file.ts", `Deno.dlopen("libc.so.6", {});`],
  ["lib makes a pointer", "lib/storage/file.ts", `const p = Deno.UnsafePointer.create(1n);`],
  ["a root opens a library", "cli.ts", `Deno.dlopen("libc.so.6", {});`],
  ["the bench draws in its own process", "bench/main.ts", `import * as echarts from "echarts";`],
  ["the product imports the bench", "lib/cli/serve.ts", `import { median } from "../../bench/statistics.ts";`],
  ["the version outside the command", "lib/cli/main.ts", `import json from "../../deno.json" with { type: "json" };`],
  ["a folder that no room holds", "src/x.ts", ``],
];

for (const [why, path, text] of BAD) {
  Deno.test(`the import rule refuses: ${why}`, () => {
    assertEquals(importFaults(path, analyse(path, text)).length, 1);
  });
}

Deno.test("the import rule admits what it should, and isn't misled by comments and strings", () => {
  const samples = [
    ["lib/modules.ts", `export const open = (module: string) => import(module);`],
    [
      "platform.ts",
      `const { open } = await import("./ffi/platform.ts"); import type { Platform } from "./lib/log.ts";`,
    ],
    ["platform.ts", `import type { UringEngine } from "./ffi/uring/engine.ts";`],
    ["ffi/xen/gnttab.ts", `import { GrantError } from "../../lib/hypervisor.ts"; Deno.dlopen("x", {});`],
    ["lib/blkif/ring.ts", `// import "../storage/disk.ts"\nconst text = 'import "../sim/x.ts"; Deno.dlopen';`],
  ] as const;
  for (const [path, text] of samples) assertEquals(importFaults(path, analyse(path, text)), []);
});

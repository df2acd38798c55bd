/**
 * Enforces who may import whom, and that native code is reached from ffi alone. Each rule is also shown to bite, on a
 * bad sample.
 */

import { assertEquals, assertGreater } from "@std/assert";
import { importFaults } from "./import_rule.ts";
import { analyse, ROOT, sourceFiles } from "./source.ts";

Deno.test("every import in the checkout follows the import rule", () => {
  const files = sourceFiles().filter((path) => path.endsWith(".ts"));
  assertGreater(files.length, 5);
  const faults = files.flatMap((path) => importFaults(path, analyse(path, Deno.readTextFileSync(ROOT + path))));
  assertEquals(faults, []);
});

/** A file that breaks a rule, and how many breaches there are. */
const BAD: readonly (readonly [why: string, path: string, text: string, faults: number])[] = [
  ["the seam imports anything", "lib/hypervisor.ts", `import { x } from "./errors.ts";`, 1],
  ["blkif imports another room", "lib/blkif/abi.ts", `import type { DomId } from "../hypervisor.ts";`, 1],
  ["xenbus imports storage", "lib/xenbus/paths.ts", `export * from "../storage/disk.ts";`, 1],
  ["the data plane imports the simulation", "lib/dataplane/queue.ts", `import { x } from "../sim/machine.ts";`, 1],
  ["lib imports ffi", "lib/backend/device.ts", `import { mmap } from "../../ffi/linux/libc.ts";`, 1],
  ["lib imports ffi dynamically", "lib/backend/device.ts", `await import("../../ffi/linux/libc.ts");`, 1],
  ["lib imports ffi as a type", "lib/backend/device.ts", `type M = import("../../ffi/linux/libc.ts").M;`, 1],
  ["lib imports a root", "lib/storage/open.ts", `import { openPlatform } from "../../platform.ts";`, 1],
  ["a worker entry imports a root", "lib/dataplane/reactor_worker.ts", `await import("../../platform.ts");`, 1],
  ["a worker entry imports the simulation", "lib/storage/pool/io_worker.ts", `import "../../sim/platform.ts";`, 1],
  ["a ring knows Xen", "ffi/uring/engine.ts", `import { NativeEventChannels } from "../xen/evtchn.ts";`, 1],
  ["a verb imports ffi", "lib/cli/doctor/verb.ts", `await import("../../../ffi/linux/library.ts");`, 1],
  ["lib outside the verbs parses arguments", "lib/backend/device.ts", `import { parseArgs } from "@std/cli";`, 1],
  ["ffi imports policy", "ffi/xen/gnttab.ts", `import { Device } from "../../lib/backend/device.ts";`, 1],
  ["a root imports ffi statically", "platform.ts", `import { open } from "./ffi/platform.ts";`, 1],
  ["the library imports a test tool", "lib/storage/open.ts", `import { assert } from "@std/assert";`, 1],
  ["a JSR specifier", "tests/x_test.ts", `import { assert } from "jsr:@std/assert";`, 1],
  ["a URL", "cli.ts", `import "https://example.org/x.ts";`, 1],
  ["a package without an alias", "lib/cli/args.ts", `import x from "npm:deno-std/cli/mod.js";`, 1],
  ["a computed import elsewhere", "lib/storage/channel.ts", "const m = 'x'; await import(m);", 1],
  ["a package by our alias, which others do not have", "lib/log.ts", `import x from "@logtape/logtape";`, 1],
  ["a second file that logs by itself", "lib/service.ts", `import x from "npm:@logtape/logtape@2.4.2";`, 1],
  ["an example that reaches into the library", "examples/x.ts", `import { x } from "../lib/attach.ts";`, 1],
  ["a computed dynamic import", "cli.ts", "const verb = 'x'; await import(`./ffi/${verb}.ts`);", 1],
  ["lib opens a library", "lib/storage/file.ts", `Deno.dlopen("libc.so.6", {});`, 1],
  ["lib makes a pointer", "lib/storage/file.ts", `const p = Deno.UnsafePointer.create(1n);`, 1],
  ["a root opens a library", "cli.ts", `Deno.dlopen("libc.so.6", {});`, 1],
  ["the bench draws in its own process", "bench/main.ts", `import * as echarts from "echarts";`, 1],
  ["the product imports the bench", "lib/cli/serve.ts", `import { median } from "../../bench/statistics.ts";`, 1],
  ["a folder that no room holds", "src/x.ts", ``, 1],
];

for (const [why, path, text, faults] of BAD) {
  Deno.test(`the import rule refuses: ${why}`, () => {
    assertEquals(importFaults(path, analyse(path, text)).length, faults);
  });
}

Deno.test("the import rule admits what it should, and isn't misled by comments and strings", () => {
  const samples = [
    ["lib/modules.ts", `const load = (module: string) => import(module);`],
    ["platform.ts", `const { open } = await import("./ffi/platform.ts"); import type { Platform } from "./lib/x.ts";`],
    ["ffi/xen/gnttab.ts", `import { GrantError } from "../../lib/hypervisor.ts"; Deno.dlopen("x", {});`],
    ["lib/blkif/ring.ts", `// import "../storage/disk.ts"\nconst text = 'import "../sim/x.ts"; Deno.dlopen';`],
  ] as const;
  for (const [path, text] of samples) assertEquals(importFaults(path, analyse(path, text)), []);
});

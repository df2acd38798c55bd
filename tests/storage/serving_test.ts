/**
 * By which engine and in which cache mode a file is served: what is taken by default, what is refused, what is said.
 * The system calls are pretended.
 */

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { CacheMode, DiskRequest } from "../../lib/storage/disk.ts";
import type { NativeFiles } from "../../lib/storage/image/medium.ts";
import { decideServing } from "../../lib/storage/serving.ts";

function pretend(options: { refusal?: string; notDirect?: string } = {}): NativeFiles {
  return {
    uringRefusal: () => options.refusal === undefined ? undefined : { reason: options.refusal, remedy: "allow it" },
    uringModule: "file:///never/loaded.ts",
    examine: (_path, _readOnly, cache) => ({
      routes: { direct: cache === "none" && options.notDirect === undefined, reads: "ring", writes: "call" },
      logicalSectorBytes: 512,
      physicalSectorBytes: 4096,
      ...(cache === "none" && options.notDirect !== undefined ? { notDirect: options.notDirect } : {}),
    }),
  };
}

/** Engine and cache mode that are decided, and what is said. */
function decide(request: Partial<DiskRequest>, native?: NativeFiles): [string, CacheMode, string[]] {
  const warnings: string[] = [];
  const whole = { format: "raw", target: "/a", readOnly: false, engine: "auto", ...request } as const;
  const context = { warn: (message: string): void => void warnings.push(message), ...(native && { native }) };
  const { engine, cache } = decideServing(whole, context);
  return [engine, cache, warnings];
}

Deno.test("auto takes the ring where it can be had, else the file engine, and says why", () => {
  assertEquals(decide({}, pretend()), ["uring", "writeback", []]);
  assertEquals(decide({ engine: "file" }, pretend()), ["file", "writeback", []]);
  const [engine, cache, warnings] = decide({}, pretend({ refusal: "it is forbidden" }));
  assertEquals([engine, cache], ["file", "writeback"]);
  assertEquals(warnings, ["image /a: engine file in place of uring: it is forbidden; allow it"]);
  assertEquals(decide({}), ["file", "writeback", []], "a simulation has no other, which goes without saying");
});

Deno.test("a ring that is asked for and cannot be had is refused with the reason", () => {
  const error = assertThrows(() => decide({ engine: "uring" }, pretend({ refusal: "it is forbidden" })), XenblkError);
  assertEquals(error.message, "Cannot open image /a: engine uring cannot be used: it is forbidden");
  assertEquals(error.remedy, "allow it; or use engine auto or file");
  assertMatch(assertThrows(() => decide({ engine: "uring" }), XenblkError).message, /not in a simulation$/);
});

Deno.test("cache none needs the ring, and falls back with a warning where the medium cannot", () => {
  assertEquals(decide({ cache: "none" }, pretend()), ["uring", "none", []]);
  const notDirect = "its medium takes blocks of 4096 bytes, the disk has sectors of 512";
  assertEquals(decide({ cache: "none" }, pretend({ notDirect })), [
    "uring",
    "writeback",
    [`image /a: cache writeback in place of none: ${notDirect}`],
  ]);
  for (const native of [pretend(), undefined]) {
    const error = assertThrows(() => decide({ cache: "none", engine: "file" }, native), XenblkError);
    assertEquals(error.message, "Cannot open image /a: cache none needs engine uring");
    assertEquals(error.exitStatus, 2);
  }
  const error = assertThrows(() => decide({ cache: "none" }, pretend({ refusal: "it is forbidden" })), XenblkError);
  assertMatch(error.message, /cache none needs engine uring, and it is forbidden$/);
});

Deno.test("the toolstack's word for direct I/O makes none the default, silently where it cannot be", () => {
  const directIoSafe = true;
  assertEquals(decide({ directIoSafe }, pretend()), ["uring", "none", []]);
  assertEquals(decide({ directIoSafe, cache: "writethrough" }, pretend()), ["uring", "writethrough", []]);
  assertEquals(decide({ directIoSafe }, pretend({ notDirect: "no" })), ["uring", "writeback", []]);
  assertEquals(decide({ directIoSafe, engine: "file" }, pretend()), ["file", "writeback", []]);
});

Deno.test("unsafe is warned of", () => {
  const [, cache, warnings] = decide({ cache: "unsafe" }, pretend());
  assertEquals(cache, "unsafe");
  assertMatch(warnings[0]!, /a crash of this machine loses or damages its data/);
});

/**
 * By which engine and in which cache mode a file is served: what is taken by default, what is refused, what is said.
 * The system calls are pretended.
 */

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { CacheMode, DiskRequest } from "../../lib/storage/disk.ts";
import { decideServing, examinationFor } from "../../lib/storage/serving.ts";
import { pretendFiles, pretendMedium } from "./rig.ts";

interface Pretence {
  readonly refusal?: string;
  readonly notDirect?: string;
  readonly mayWait?: string;
}

/** Engine and cache mode that are decided, and what is said. */
function decide(request: Partial<DiskRequest>, pretence?: Pretence): [string, CacheMode, string[]] {
  const warnings: string[] = [];
  const whole = { format: "raw", target: "/a", readOnly: false, engine: "auto", ...request } as const;
  const { refusal, ...facts } = pretence ?? {};
  const native = pretendFiles(() => facts, refusal === undefined ? undefined : { reason: refusal, remedy: "allow it" });
  const context = { warn: (message: string): void => void warnings.push(message), ...(pretence && { native }) };
  const medium = pretence === undefined ? undefined : pretendMedium(examinationFor(whole), facts);
  const { engine, cache } = decideServing(whole, context, medium);
  return [engine, cache, warnings];
}

Deno.test("auto takes the ring where it can be had, else the file engine, and says why", () => {
  assertEquals(decide({}, {}), ["uring", "writeback", []]);
  assertEquals(decide({ engine: "file" }, {}), ["file", "writeback", []]);
  const [engine, cache, warnings] = decide({}, { refusal: "it is forbidden" });
  assertEquals([engine, cache], ["file", "writeback"]);
  assertEquals(warnings, ["image /a: engine file in place of uring: it is forbidden; allow it"]);
  assertEquals(decide({}), ["file", "writeback", []], "a simulation has no other, which goes without saying");
});

Deno.test("a ring that is asked for and cannot be had is refused with the reason", () => {
  const error = assertThrows(() => decide({ engine: "uring" }, { refusal: "it is forbidden" }), XenblkError);
  assertEquals(error.message, "Cannot open image /a: engine uring cannot be used: it is forbidden");
  assertEquals(error.remedy, "allow it; or use engine auto or file");
  assertMatch(assertThrows(() => decide({ engine: "uring" }), XenblkError).message, /not in a simulation$/);
});

Deno.test("cache none needs the ring, and falls back with a warning where the medium cannot", () => {
  assertEquals(decide({ cache: "none" }, {}), ["uring", "none", []]);
  const notDirect = "its medium takes blocks of 4096 bytes, the disk has sectors of 512";
  assertEquals(decide({ cache: "none" }, { notDirect }), [
    "uring",
    "writeback",
    [`image /a: cache writeback in place of none: ${notDirect}`],
  ]);
  for (const native of [{}, undefined]) {
    const error = assertThrows(() => decide({ cache: "none", engine: "file" }, native), XenblkError);
    assertEquals(error.message, "Cannot open image /a: cache none needs engine uring");
    assertEquals(error.exitStatus, 2);
  }
  const error = assertThrows(() => decide({ cache: "none" }, { refusal: "it is forbidden" }), XenblkError);
  assertMatch(error.message, /cache none needs engine uring, and it is forbidden$/);
});

Deno.test("the toolstack's word for direct I/O makes none the default, silently where it cannot be", () => {
  const directIoSafe = true;
  assertEquals(decide({ directIoSafe }, {}), ["uring", "none", []]);
  assertEquals(decide({ directIoSafe, cache: "writethrough" }, {}), ["uring", "writethrough", []]);
  assertEquals(decide({ directIoSafe }, { notDirect: "no" }), ["uring", "writeback", []]);
  assertEquals(decide({ directIoSafe, engine: "file" }, {}), ["file", "writeback", []]);
});

Deno.test("a file system that may make a reactor wait is served by I/O Workers; the ring is refused there", () => {
  const mayWait = "its file system (NFS) may make a reactor, which serves other disks too, wait for the storage";
  const [engine, cache, warnings] = decide({}, { mayWait });
  assertEquals([engine, cache], ["file", "writeback"]);
  assertMatch(warnings.join(), /^image \/a: engine file in place of uring: its file system \(NFS\) may make a reactor/);
  assertEquals(decide({ engine: "file" }, { mayWait }), ["file", "writeback", []]);
  assertEquals(decide({ directIoSafe: true }, { mayWait })[1], "writeback");
  const error = assertThrows(() => decide({ engine: "uring" }, { mayWait }), XenblkError);
  assertMatch(error.message, /^Cannot open image \/a: engine uring cannot be used: its file system \(NFS\) may make/);
  assertEquals(
    error.remedy,
    "put the image on a local file system or a block device; or use engine auto or file",
  );
  assertThrows(
    () => decide({ cache: "none" }, { mayWait }),
    XenblkError,
    "cache none needs engine uring, and its file",
  );
});

Deno.test("unsafe is warned of", () => {
  const [, cache, warnings] = decide({ cache: "unsafe" }, {});
  assertEquals(cache, "unsafe");
  assertMatch(warnings[0]!, /a crash of this machine loses or damages its data/);
});

/**
 * The grant-copy batch: its bytes against the C struct of the installed xengnttab.h, and its rules.
 */

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { COPY_SEGMENT_BYTES, NativeGrantCopyBatch } from "../../ffi/xen/grant_copy.ts";
import { libc } from "../../ffi/linux/libc.ts";
import { viewOf } from "../../ffi/linux/memory.ts";

libc();

const GUEST = 0x7FEF;
const HEADER = "/usr/include/xengnttab.h";

/** A batch whose runs are done by `copy`, which sees the bytes of the segments. */
function batchOf(capacity: number, copy: (segments: Uint8Array) => number): NativeGrantCopyBatch {
  return new NativeGrantCopyBatch(GUEST, capacity, (address) => (count) => {
    return copy(viewOf(address, count * COPY_SEGMENT_BYTES));
  });
}

/** The reason why C cannot be compiled against Xen's headers here, or undefined. */
function missingForC(): string | undefined {
  try {
    Deno.statSync(HEADER);
  } catch {
    return `${HEADER} is missing (Debian package libxen-dev)`;
  }
  try {
    return new Deno.Command("gcc", { args: ["--version"] }).outputSync().success ? undefined : "gcc does not run";
  } catch {
    return "gcc is missing (Debian package gcc)";
  }
}

const missing = missingForC();
// deno-lint-ignore no-console -- why a test is ignored is to be seen
if (missing !== undefined) console.log(`grant copy against C: ignored, ${missing}`);

const PRINT_SEGMENTS = `
#include <stdio.h>
#include <xengnttab.h>
int main(void) {
  xengnttab_grant_copy_segment_t s;
  printf("size %zu\\n", sizeof s);
  while (fread(&s, sizeof s, 1, stdin) == 1) {
    if (s.flags == GNTCOPY_source_gref)
      printf("from %u+%u of %u to %p", s.source.foreign.ref, s.source.foreign.offset, s.source.foreign.domid, s.dest.virt);
    else if (s.flags == GNTCOPY_dest_gref)
      printf("to %u+%u of %u from %p", s.dest.foreign.ref, s.dest.foreign.offset, s.dest.foreign.domid, s.source.virt);
    printf(" len %u status %d\\n", s.len, s.status);
  }
}`;

/** What the C program prints of the segments that it reads as C structs. */
async function printByC(segments: Uint8Array): Promise<string> {
  const directory = await Deno.makeTempDir();
  try {
    const source = `${directory}/segments.c`;
    const input = `${directory}/segments`;
    await Deno.writeTextFile(source, PRINT_SEGMENTS);
    await Deno.writeFile(input, segments);
    const script = `gcc -Wall -o "$0/p" "$0/segments.c" && "$0/p" < "$0/segments"`;
    const { stdout, stderr } = await new Deno.Command("sh", { args: ["-c", script, directory] }).output();
    assertEquals(new TextDecoder().decode(stderr), "");
    return new TextDecoder().decode(stdout);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test({ name: "grant copy: C reads the segments as they were meant", ignore: missing !== undefined }, async () => {
  let copied = new Uint8Array();
  using batch = batchOf(4, (segments) => {
    copied = segments.slice();
    return 0;
  });
  batch.addFromGuest(0xFFFF_FFFF, 4095, 0x7FFF_1234_5678, 1);
  batch.addToGuest(8, 0, 0x1000, 4096);
  batch.addFromGuest(0, 512, 0x1F_FFFF_FFFF_F000, 3584);
  assertEquals(batch.run(), 0);
  assertEquals(
    await printByC(copied),
    "size 24\n" +
      "from 4294967295+4095 of 32751 to 0x7fff12345678 len 1 status -1\n" +
      "to 8+0 of 32751 from 0x1000 len 4096 status -1\n" +
      "from 0+512 of 32751 to 0x1ffffffffff000 len 3584 status -1\n",
  );
});

Deno.test("grant copy: a call that touches no status leaves every segment failed, on every run", () => {
  let statusToWrite: number | undefined;
  using batch = batchOf(2, (segments) => {
    const statuses = new DataView(segments.buffer, segments.byteOffset);
    if (statusToWrite !== undefined) statuses.setInt16(20, statusToWrite, true);
    return 0;
  });
  batch.addFromGuest(1, 0, 4096, 512);
  batch.addFromGuest(2, 0, 8192, 512);
  batch.run();
  assertEquals([batch.status(0), batch.status(1)], [-1, -1]);
  statusToWrite = 0;
  batch.run();
  assertEquals([batch.status(0), batch.status(1)], [0, -1]);
  statusToWrite = 3;
  batch.run();
  assertEquals(batch.status(0), 3);
  statusToWrite = undefined;
  batch.run();
  assertEquals(batch.status(0), -1);
});

Deno.test("grant copy: the call's error is the run's; an empty batch calls nothing", () => {
  let calls = 0;
  using batch = batchOf(1, () => {
    calls++;
    return -14;
  });
  assertEquals([batch.run(), calls], [0, 0]);
  batch.addToGuest(1, 0, 4096, 1);
  assertEquals([batch.run(), calls, batch.length], [-14, 1, 1]);
  batch.clear();
  assertEquals([batch.run(), calls, batch.length], [0, 1, 0]);
});

Deno.test("grant copy: too many segments, a crossed page and an unknown index are refused", () => {
  using batch = batchOf(1, () => 0);
  assertThrows(() => batch.addFromGuest(1, 4095, 4096, 2), RangeError, "cross the end of a page");
  assertEquals(batch.length, 0);
  batch.addFromGuest(1, 0, 4096, 4096);
  const error = assertThrows(() => batch.addToGuest(1, 0, 4096, 1), RangeError);
  assertStringIncludes(error.message, "all 1 are used");
  assertThrows(() => batch.status(1), RangeError, "segment 1 of 1");
});

/**
 * The short form of the isolation table (`deno task isolation` measures all of it): whatever hangs, floods or stops,
 * another guest is answered, a disk of a third one can be attached, SIGTERM is heard, and the next process serves. The
 * gate runs one row; XENBLK_NATIVE=full those that are marked as short.
 */

import { assertEquals } from "@std/assert";
import { missingFuse } from "../hanging_fs.ts";
import { missingProgram, nativeTest } from "../harness.ts";
import { HOSTILITIES } from "./hostilities.ts";
import { Scene } from "./scene.ts";
import { beyondBounds } from "./table.ts";

const MISSING = missingFuse() ?? missingProgram("losetup", "mount") ?? missingProgram("mkfs.ext4", "e2fsprogs");
const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
/** The row of the gate. */
const ONE = "first open of an image hangs";

for (const hostility of HOSTILITIES.filter(({ name, short }) => FULL ? short : name === ONE)) {
  nativeTest(`neighbours notice nothing: ${hostility.name}`, async () => {
    const figures = await Scene.measure(hostility);
    assertEquals(beyondBounds(figures, hostility), [], JSON.stringify(figures));
  }, MISSING);
}

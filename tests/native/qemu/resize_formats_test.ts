/**
 * Growing under a guest, for each format that there is: the disk grows and keeps its content, or the error says what to
 * do, and the disk goes on as it was.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { EngineRig, tick } from "./engine_rig.ts";
import { command, daemonTest } from "./rig.ts";

const MIB = 1 << 20;
const CONVERT =
  /^Cannot resize image \w+:.*; move the disk to a larger image of any format \(`xenblk mirror`\); raw, qcow2/;

/** By format: the error, or undefined if it grows. vhd is QEMU's vpc. */
const FORMATS: Readonly<Record<string, RegExp | undefined>> = {
  raw: undefined,
  qcow2: undefined,
  luks: undefined,
  qcow: CONVERT,
  vmdk: CONVERT,
  vdi: CONVERT,
  vhdx: CONVERT,
  vhd: CONVERT,
  parallels: CONVERT,
  qed: /^Cannot resize image qed:.*: QEMU 7\.2 ends when a qed image grows under load; move the disk to a larger image/,
};

/** The error of a resize, while the disk's channel goes on. */
async function growing(resize: Promise<void>, turn: () => Promise<unknown>): Promise<unknown> {
  let outcome: { readonly error: unknown } | undefined;
  void resize.then(() => outcome = { error: undefined }, (error) => outcome = { error });
  for (; outcome === undefined; await tick()) await turn();
  return outcome.error;
}

/** Makes an image of 8 MiB; its name as attach takes it. */
async function make(rig: EngineRig, format: string): Promise<string> {
  const path = `${rig.folder}/disk.${format}`;
  const driver = format === "vhd" ? "vpc" : format;
  if (format !== "luks") {
    await command("qemu-img", "create", "-q", "-f", driver, path, "8M");
    return format === "raw"
      ? `json:{"driver":"raw","file":{"driver":"file","filename":"${path}"}}`
      : `${format}:${path}`;
  }
  const secret = `${rig.folder}/secret`;
  Deno.writeTextFileSync(secret, "of one word");
  const options = ["-o", "key-secret=s,iter-time=10", "--object", `secret,id=s,file=${secret}`];
  // Deriving keys fails now and then where the clock is coarse.
  for (let attempt = 1;; attempt++) {
    const made = await command("qemu-img", "create", "-q", "-f", "luks", ...options, path, "8M").catch((error) =>
      error
    );
    if (typeof made === "string") return `format=luks,passphrase-file=${secret},target=${path}`;
    if (attempt === 6) throw made;
  }
}

daemonTest("each format grows under its guest, or says what to do, and keeps its content", async (context) => {
  for (const [format, refusal] of Object.entries(FORMATS)) {
    await context.step(format, async () => {
      await using rig = new EngineRig();
      await using disk = await rig.open(await make(rig, format));
      const before = disk.sizeBytes;
      assert(before >= 8 * MIB);
      await disk.write(0, new Uint8Array(MIB).fill(7));
      const error = await growing(disk.disk.grow!(16 * MIB), () => disk.read(0, 512));
      assertEquals((await disk.read(0, MIB)).every((byte) => byte === 7), true, "its content");
      if (refusal === undefined) {
        assertEquals([error, disk.disk.properties.sectors], [undefined, 16 * MIB / 512]);
        await disk.write(15 * MIB, new Uint8Array(MIB).fill(8));
        assertEquals((await disk.read(15 * MIB, MIB)).every((byte) => byte === 8), true, "the new part");
      } else {
        assert(error instanceof XenblkError, `${error}`);
        assertMatch(error.line, refusal);
        assertEquals(disk.disk.properties.sectors, before / 512);
        await disk.write(MIB, new Uint8Array(MIB).fill(9));
      }
    });
  }
});

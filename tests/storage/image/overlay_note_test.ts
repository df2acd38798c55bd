/**
 * Where the notes of snapshots lead: to the overlay for those who write, back to the base once it counts no more, and
 * nowhere if what they speak of is not there.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import {
  activeImage,
  notePath,
  readNote,
  turnNote,
  turnNoteBack,
  writeNote,
} from "../../../lib/storage/image/overlay_note.ts";
import { chainBelow } from "../../../lib/storage/qemu/overlay_chain.ts";
import { planReversal, revert } from "../../../lib/storage/qemu/overlay_revert.ts";
import { settleDeletion } from "../../../lib/storage/qemu/overlay_settle.ts";
import { writeOverlayHeader } from "../rig.ts";

/** A folder with a base and overlays on it, one on the other. */
class Chain implements Disposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "xenblk-notes-" });
  readonly base = `${this.folder}/web.img`;

  constructor() {
    Deno.writeTextFileSync(this.base, "raw");
  }

  path(name: string): string {
    return `${this.folder}/web.${name}.qcow2`;
  }

  async snapshot(name: string, of: string, baseFormat: string): Promise<void> {
    const base = of.slice(of.lastIndexOf("/") + 1);
    writeOverlayHeader(this.path(name), base);
    const overlay = `web.${name}.qcow2`;
    const created = "2026-11-30T08:00:00.000Z";
    await writeNote(this.folder, { version: 1, snapshot: name, created, base, baseFormat, overlay });
  }

  async led(path: string, writes = true, format = "raw"): Promise<string> {
    const { format: found, target } = await activeImage({ format, target: path }, writes);
    return `${found}:${target.slice(this.folder.length + 1)}`;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

async function chainOfTwo(): Promise<Chain> {
  const chain = new Chain();
  await chain.snapshot("one", chain.base, "raw");
  await chain.snapshot("two", chain.path("one"), "qcow2");
  return chain;
}

Deno.test("who writes is led to the newest overlay by any name of the chain; who reads has what was named", async () => {
  using chain = await chainOfTwo();
  const [one, two] = [chain.path("one"), chain.path("two")];
  assertEquals(await chain.led(chain.base), "qcow2:web.two.qcow2");
  assertEquals(await chain.led(one, true, "qcow2"), "qcow2:web.two.qcow2");
  assertEquals(await chain.led(two, true, "qcow2"), "qcow2:web.two.qcow2");
  assertEquals(await chain.led(chain.base, false), "raw:web.img");
  Deno.symlinkSync(chain.base, `${chain.folder}/link`);
  assertEquals(await chain.led(`${chain.folder}/link`), "qcow2:web.two.qcow2");
});

Deno.test("a note that is turned leads every name to the base, also of overlays that are gone; and back", async () => {
  using chain = await chainOfTwo();
  const [one, two] = [chain.path("one"), chain.path("two")];
  await turnNote(chain.base, two);
  for (const path of [chain.base, one, two]) {
    assertEquals(await chain.led(path, true, "qcow2"), path === chain.base ? "qcow2:web.img" : "raw:web.img");
  }
  await turnNoteBack(chain.base, two);
  assertEquals(await chain.led(chain.base), "qcow2:web.two.qcow2");
  await turnNote(chain.base, two);
  for (const path of [one, two]) Deno.removeSync(path);
  for (const path of [one, two]) {
    for (const writes of [false, true]) assertEquals(await chain.led(path, writes, "qcow2"), "raw:web.img");
  }
});

Deno.test("a base is not written if its overlay is missing, is another's, or its note cannot be read", async () => {
  using chain = await chainOfTwo();
  const refused = async (pattern: string): Promise<void> => {
    const { remedy } = await assertRejects(() => chain.led(chain.base), XenblkError, pattern);
    assertEquals(remedy !== undefined, true);
  };
  Deno.renameSync(chain.path("one"), `${chain.folder}/away`);
  await refused("which does not exist");
  writeOverlayHeader(chain.path("one"), "other.img");
  await refused("which is no qcow2 image over");
  Deno.renameSync(`${chain.folder}/away`, chain.path("one"));
  assertEquals(await chain.led(chain.base), "qcow2:web.two.qcow2");
  Deno.writeTextFileSync(notePath(chain.base), `{"version":1,"overlay":"../x"}`);
  await refused("it is damaged");
});

Deno.test("notes that lead in circles are refused", async () => {
  using chain = new Chain();
  await chain.snapshot("one", chain.base, "raw");
  Deno.copyFileSync(notePath(chain.base), notePath(chain.path("one")));
  await assertRejects(() => chain.led(chain.base), XenblkError, "lead in circles");
});

Deno.test("a disk goes back to its newest snapshot, or to an older one, or to what is left of it", async () => {
  using chain = await chainOfTwo();
  const [one, two] = [chain.path("one"), chain.path("two")];
  assertEquals((await planReversal(chain.base, undefined)).overlays, [two]);
  const older = await planReversal(two, "one");
  assertEquals(older, { base: chain.base, image: `raw:${chain.base}`, overlays: [two, one] });
  await assertRejects(() => planReversal(chain.base, "three"), XenblkError, "Cannot find snapshot");
  await revert(await planReversal(chain.base, undefined));
  assertEquals(await chain.led(chain.base), "qcow2:web.one.qcow2");
  assertEquals(await chain.led(two, true, "qcow2"), "qcow2:web.one.qcow2");
  Deno.removeSync(one); // what was written since is lost
  await revert(await planReversal(chain.base, undefined));
  assertEquals(await chain.led(chain.base), "raw:web.img");
  await assertRejects(() => planReversal(chain.base, undefined), XenblkError, "it has none");
});

/** What a chain of three looks like, the first overlay of which is merged into the base. */
async function assertLed(chain: Chain, step: string, snapshots: readonly string[]): Promise<void> {
  for (const name of [chain.base, chain.path("one"), chain.path("two"), chain.path("three")]) {
    assertEquals(await chain.led(name, true, "qcow2"), "qcow2:web.three.qcow2", `${step}: ${name}`);
  }
  const links = await chainBelow(chain.path("three"));
  assertEquals(links.map(({ snapshot }) => snapshot), snapshots, step);
}

Deno.test("at each step of a deletion every name leads to the disk, and no later snapshot is lost", async () => {
  using chain = await chainOfTwo();
  const { base, folder } = chain;
  const [one, two, three] = [chain.path("one"), chain.path("two"), chain.path("three")];
  await chain.snapshot("three", two, "qcow2");
  const merging = "2026-11-30T09:00:00.000Z";
  await writeNote(folder, { ...(await readNote(base))!, merging });
  await assertLed(chain, "begun", ["three", "two", "one"]);
  const refused = (): Promise<unknown> => planReversal(base, "one");
  await assertRejects(refused, XenblkError, "merged in part");
  assertEquals((await planReversal(base, "two")).base, one);

  writeOverlayHeader(two, "web.img"); // not before the note allows it
  await assertRejects(() => chain.led(base), XenblkError, "which is no qcow2 image over");
  writeOverlayHeader(two, "web.one.qcow2");
  await writeNote(folder, { ...(await readNote(one))!, into: "web.img" });
  await assertLed(chain, "allowed", ["three", "two", "one"]);
  writeOverlayHeader(two, "web.img");
  await assertLed(chain, "rewritten", ["three", "two"]);
  assertEquals(await planReversal(base, "two"), { base, image: `raw:${base}`, overlays: [three, two, one] });

  Deno.removeSync(one);
  await assertLed(chain, "removed", ["three", "two"]);
  const { into: _into, ...upper } = (await readNote(one))!;
  await writeNote(folder, { ...upper, base: "web.img", baseFormat: "raw" });
  await assertLed(chain, "joined", ["three", "two"]);
  await writeNote(folder, { ...upper, base: "web.img", baseFormat: "raw", overlay: "web.one.qcow2" }, "web.one.qcow2");
  await assertLed(chain, "turned", ["three", "two"]);
  assertEquals(await chain.led(one, false, "qcow2"), "raw:web.img");
});

Deno.test("what a deletion has left is done as a whole, and once", async () => {
  using chain = await chainOfTwo();
  const { base, folder } = chain;
  const [one, two] = [chain.path("one"), chain.path("two")];
  await writeNote(folder, { ...(await readNote(one))!, into: "web.img" });
  writeOverlayHeader(two, "web.img");
  await settleDeletion({ base, merged: one, overlay: two });
  assertEquals((await chainBelow(two)).map(({ snapshot, merged }) => [snapshot, merged]), [["two", undefined]]);
  assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name).filter((name) => /one.qcow2$/.test(name)), []);
  assertEquals(await chain.led(one, true, "qcow2"), "qcow2:web.two.qcow2");
  await assertRejects(() => settleDeletion({ base, merged: one, overlay: two }), XenblkError, "other ones by now");
});

Deno.test("what a guest writes to the begin of a raw image names no image below it", async () => {
  using chain = await chainOfTwo();
  writeOverlayHeader(chain.base, "bad\0name");
  const names = async (path: string, format: string): Promise<string[]> =>
    (await chainBelow(path, format)).map(({ snapshot }) => snapshot);
  assertEquals(await names(chain.path("two"), "qcow2"), ["two", "one"]);
  assertEquals(await names(chain.base, "raw"), []);
});

Deno.test({
  name: "who may not look for a note does not write to the image; who only reads has what was named",
  permissions: { read: false },
  async fn(): Promise<void> {
    const name = { format: "raw", target: "/srv/some.img" };
    const error = await assertRejects(() => activeImage(name, true), XenblkError);
    assertEquals(
      error.line,
      "Cannot look for /srv/some.img.xenblk-snapshot, which says where an image's later writes are: Deno was started " +
        "without the permission; run deno with --allow-read=/srv",
    );
    assertEquals(await activeImage(name, false), name);
  },
});

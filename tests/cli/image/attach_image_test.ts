/**
 * The image that `attach --create` and `--overlay` make: its name for attach, and when it is removed.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { type AttachImage, type CreatingOptions, imageForAttach } from "../../../lib/cli/image/for_attach.ts";
import { DrainSignals } from "../../../lib/cli/signals.ts";
import { xenblk } from "../command.ts";
import { namesIn, qemu, testImages } from "./images.ts";

const NOTHING = { create: undefined, overlay: undefined, "keep-overlay": undefined, keep: false };

/** Runs what `attach` runs before it opens the image. */
async function prepare(
  options: Partial<CreatingOptions>,
  image?: string,
): Promise<{ made: AttachImage; said: string }> {
  let said = "";
  using signals = new DrainSignals();
  const host = { openNativePlatform: () => Promise.reject(new Error("not used")) };
  const context = { signals, host, inform: (line: string): void => void (said += `${line}\n`) };
  return { made: await imageForAttach(context, { ...NOTHING, ...options }, image), said };
}

testImages("--create makes an image of the format that its name says, which is raw without one", async (directory) => {
  const raw = await prepare({ create: 2 ** 20 }, `${directory}/a`);
  assertEquals([raw.made.name, raw.said], [`raw:${directory}/a`, `created raw:${directory}/a (1.0 MiB)\n`]);
  assertEquals(Deno.statSync(`${directory}/a`).size, 2 ** 20);
  const { made } = await prepare({ create: 2 ** 20 }, `qcow2:${directory}/b`);
  assertEquals(made.name, `qcow2:${directory}/b`);
  const info = JSON.parse(await qemu("qemu-img", "info", "--output=json", `${directory}/b`));
  assertEquals([info.format, info["virtual-size"], info["cluster-size"]], ["qcow2", 2 ** 20, 128 * 1024]);
  await made.release();
  assertEquals(namesIn(directory), ["a", "b"]);
  await made.undo();
  assertEquals(namesIn(directory), ["a"]);
});

testImages("--create takes an image that exists with that size, and refuses another size", async (directory) => {
  const name = `qcow2:${directory}/a`;
  await qemu("qemu-img", "create", "-q", "-f", "qcow2", `${directory}/a`, "1M");
  const { made, said } = await prepare({ create: 2 ** 20 }, name);
  assertEquals([made.name, said], [name, ""]);
  await made.undo();
  assertEquals(namesIn(directory), ["a"], "it was not made here, so it stays");
  const error = await assertRejects(() => prepare({ create: 2 ** 21 }, name), XenblkError);
  assertEquals(
    error.line,
    `Cannot create image ${name}: it exists and has 1.0 MiB (1048576 bytes), not 2.0 MiB; name another file, or attach ` +
      "this one without --create",
  );
});

testImages(
  "--overlay makes a qcow2 overlay beside the base, which is removed when the disk is detached",
  async (directory) => {
    await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/base`, "1M");
    const { made, said } = await prepare({ overlay: `raw:${directory}/base` });
    assertMatch(made.name, new RegExp(`^qcow2:${directory}/base\\.overlay-[0-9a-f]{8}$`));
    assertEquals(
      said,
      `created ${made.name}, an overlay of raw:${directory}/base; it is removed when the disk is detached\n`,
    );
    const info = JSON.parse(await qemu("qemu-img", "info", "--output=json", made.name.slice("qcow2:".length)));
    assertEquals([info["backing-filename"], info["backing-filename-format"]], [`${directory}/base`, "raw"]);
    await made.release();
    assertEquals(namesIn(directory), ["base"]);
  },
);

testImages("--keep-overlay names the overlay, which is kept unless the attach failed", async (directory) => {
  await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/base`, "1M");
  const options = { overlay: `raw:${directory}/base`, "keep-overlay": `${directory}/o` };
  const { made } = await prepare(options);
  assertEquals(made.name, `qcow2:${directory}/o`);
  await made.release();
  assertEquals(namesIn(directory), ["base", "o"]);
  await assertRejects(() => prepare(options), XenblkError, "it exists");
  await made.undo();
  assertEquals(namesIn(directory), ["base"]);
});

testImages("--overlay refuses a base with a format that is not named", async (directory) => {
  await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/base`, "1M");
  const error = await assertRejects(() => prepare({ overlay: `${directory}/base` }), XenblkError);
  assertEquals([error.kind, error.remedy], ["usage", `name it raw:${directory}/base, if that is its format`]);
});

testImages("an attach that fails leaves neither a new image nor an overlay", async (directory) => {
  const env = { XENSTORED_PATH: "/nonexistent", XENSTORED_RUNDIR: "/nonexistent" };
  const created = await xenblk(["attach", "web", `${directory}/a`, "--create=1M"], { env });
  assertEquals(created.status, 5, created.stderr);
  assertMatch(created.stderr, /^xenblk: created raw:/);
  await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/base`, "1M");
  const overlay = await xenblk(["attach", "web", "--overlay", `raw:${directory}/base`, "xvdb"], { env });
  assertMatch(overlay.stderr, /^xenblk: created qcow2:/);
  assertEquals(namesIn(directory), ["base"]);
});

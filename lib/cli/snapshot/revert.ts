/**
 * `xenblk snapshot revert IMAGE [NAME]`: gives up what was written since a snapshot, of a disk that no guest has.
 */

import { XenblkError } from "../../errors.ts";
import { identityOf } from "../../storage/image/file.ts";
import { imageName, parseImage } from "../../storage/image/spec.ts";
import { planReversal, revert as carryOut } from "../../storage/qemu/overlay_revert.ts";
import { guestsOf, useText } from "../image/use.ts";
import { flag } from "../options.ts";
import { type Context, defineVerb } from "../verb.ts";

/** The verb. */
export const revert = defineVerb({
  name: "snapshot revert",
  summary: "Go back to a snapshot: give up what was written since, of a disk that no guest has",
  description:
    "The image that holds the snapshot is the disk again, and the overlays above it are removed, with all that was written " +
    "to them. Refused while a guest has the disk, or a process has an image of it open. It needs no serving process.",
  operands: [
    {
      name: "IMAGE",
      help: "any image of the disk: the one that a guest's configuration names",
      required: true,
      isPath: true,
    },
    { name: "NAME", help: "the snapshot; default: the newest", required: false },
  ],
  options: { "json": flag("Print what was done as JSON", "J") },
  permissions: "--allow-ffi --allow-env, and --allow-read and --allow-write of the image's directory.",
  examples: ["xenblk snapshot revert /srv/web.qcow2", "xenblk snapshot revert /srv/web.qcow2 before-upgrade"],
  async run({ host, output, inform }, options, operands): Promise<number> {
    const { target } = imageName(await parseImage(operands["image"]!));
    const reversal = await planReversal(target, operands["name"]);
    {
      await using _locks = await lockAll(host, target, [reversal.base, ...reversal.overlays]);
      await carryOut(reversal);
    }
    if (options.json) output.json(reversal);
    else inform(`${reversal.image} is the disk again; removed ${reversal.overlays.join(", ")}`);
    return 0;
  },
});

/** Keeps every other user from the images. Rejects with {@linkcode XenblkError} if there is one. */
async function lockAll(host: Context["host"], image: string, paths: readonly string[]): Promise<AsyncDisposable> {
  const refusal = (why: string): XenblkError =>
    new XenblkError(`Cannot go back to a snapshot of ${image}: ${why}`, { remedy: "detach the disk first" });
  const { imageLocks } = await host.openNativePlatform();
  await using undo = new AsyncDisposableStack();
  for (const path of paths) {
    const guests = await guestsOf(host, path);
    if (guests.length > 0) throw refusal(`it is ${guests.map(useText).join("; ")}`);
    const file = await Deno.stat(path).catch(() => undefined);
    if (file === undefined) continue;
    const use = { writes: true, shared: false, by: "snapshot revert" };
    const lock = await imageLocks.tryLock({ path, identity: identityOf(file) }, use);
    if (typeof lock === "string") throw refusal(`${lock} (${path})`);
    undo.use(lock);
  }
  return undo.move();
}

/**
 * A raw image that a storage daemon serves for a while, in place of the engine of its disk's settings: it has entered the
 * daemon for a job, and leaves it afterwards. A node of the backend's directory says so, written in the transaction that
 * commits the exchange of who serves it. So the next process, however this one ended, has the same one serve the disk. The
 * image stays the same file or block device: that is checked before the guest waits, while it does, and once it is opened.
 */

import { errorText, XenblkError } from "../errors.ts";
import type { FileIdentity } from "../hypervisor.ts";
import { lookWithin } from "../path_lookup.ts";
import type { Disk, EngineName } from "../storage/disk.ts";
import { identityOf } from "../storage/image/file.ts";
import { isFile, needsDaemon } from "../storage/image/formats.ts";
import { realImagePath } from "../storage/image/overlay_note.ts";
import { imageName, parseParams } from "../storage/image/spec.ts";
import type { DeviceDescription } from "./description.ts";
import type { OpenImage } from "./resource_types.ts";

/** The value of the node where the file is not known: the image came to the daemon by its name. */
export const UNKNOWN_FILE = "unknown";

/** Whether the image of these nodes has its own engine again once nobody needs the daemon. `engine`: that of the settings. */
export function isVisit(
  { inDaemon, params }: Pick<DeviceDescription, "inDaemon" | "params">,
  disk: Disk,
  engine: EngineName,
): boolean {
  if (engine === "qemu") return false; // it would leave into the same daemon
  const image = disk.daemon?.image;
  // Not while it has an overlay on top, nor before the nodes name what is below that again.
  return inDaemon !== undefined && image !== undefined && !needsDaemon(image) && (disk.named ?? params) === params;
}

/** The file or block device of an image that stays, whoever serves it. */
export class StayingFile {
  /** The value of the node while a daemon has it. */
  readonly text: string;
  readonly #path: string;

  private constructor(path: string, text: string) {
    this.#path = path;
    this.text = text;
  }

  /** The file that is open. Rejects with {@linkcode XenblkError} if the image is no raw one in a file or block device. */
  static async of({ disk, description }: OpenImage): Promise<StayingFile> {
    const image = imageName(await parseParams(description.params));
    if (description.cdrom) {
      throw refusal(disk, "it is in a CD-ROM drive", "copy the image itself: nothing changes it");
    }
    if (image.format !== "raw" || !isFile(image)) {
      throw refusal(
        disk,
        "only raw files and block devices go there and back",
        "give the disk an image in a file or block device",
      );
    }
    const known = description.inDaemon === UNKNOWN_FILE ? undefined : description.inDaemon;
    const identity = disk.image?.identity;
    const text = identity === undefined ? known : textOf(identity);
    if (text === undefined && await disk.daemon?.isReplaced(await realImagePath(image.target))) {
      throw replaced(image.target);
    }
    return new StayingFile(image.target, text ?? textOf(await lookAt(image.target)));
  }

  /** Rejects with {@linkcode XenblkError} if another one was opened, or has its path by now. */
  async check(opened?: Disk): Promise<void> {
    const identity = opened?.image?.identity ?? await lookAt(this.#path);
    if (textOf(identity) !== this.text) throw replaced(this.#path);
  }
}

function replaced(path: string): XenblkError {
  return new XenblkError(`Cannot go on with ${path}: another file has taken the place of the disk's image`, {
    remedy: "put the disk's own image back there, or move the disk to the new one with `xenblk swap`",
  });
}

function textOf({ device, inode }: FileIdentity): string {
  return `${device}:${inode}`;
}

async function lookAt(path: string): Promise<FileIdentity> {
  try {
    return identityOf(await lookWithin(path, () => Deno.stat(path)));
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    throw new XenblkError(`Cannot look at ${path}: ${errorText(error)}`, {
      cause: error,
      remedy: "put the disk's image back there; until then it is served as it is",
    });
  }
}

function refusal({ description }: Disk, why: string, remedy: string): XenblkError {
  return new XenblkError(`Cannot exchange who serves ${description}: ${why}`, { remedy });
}

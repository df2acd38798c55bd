/**
 * Keeps an installation within its root: an image's links are made for the system that it will be, and may lead out of
 * the root while it is a folder of this host.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { dirname } from "./paths.ts";

/** A root that is not this host's own. */
export class Inside {
  readonly #root: string;
  readonly #real: string;

  /** Throws {@linkcode XenblkError} if there is no such folder. */
  constructor(root: string) {
    this.#root = root;
    try {
      this.#real = Deno.realPathSync(root);
    } catch (error) {
      throw new XenblkError(`Cannot use root ${root}: ${errorText(error)}`, { remedy: "name a folder that is there" });
    }
  }

  /** Throws {@linkcode XenblkError} if the folder of a path, as the installed system sees it, is outside of the root. */
  check(path: string): void {
    for (let folder = dirname(path); folder !== ""; folder = dirname(folder)) {
      const place = this.#root + folder;
      if (!isThere(place)) continue;
      const real = realPathOf(place);
      if (real === this.#real || real?.startsWith(`${this.#real}/`)) return;
      throw new XenblkError(`Cannot change ${this.#root}${path}: ${place} is a link that leads out of ${this.#root}`, {
        remedy: "make the link relative, or run `xenblk install` in the image itself (chroot, systemd-nspawn)",
      });
    }
  }
}

/** Also of a link to nothing. */
function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Undefined if the path leads to nothing. */
function realPathOf(path: string): string | undefined {
  try {
    return Deno.realPathSync(path);
  } catch {
    return undefined;
  }
}

/**
 * Media of the isolation table that an administrator would set up: a loop device over a file, an ext4 file system that
 * can be frozen, and files with every block allocated. Needs root.
 */

import { DiskFolder } from "../serve/scenes.ts";

/** Runs an administrator's program and returns its output. Throws Error with its messages if it fails. */
export async function administer(program: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`${program} ${args.join(" ")}: ${decoder.decode(stderr).trim()}`);
  return decoder.decode(stdout).trim();
}

/** A loop device over a file. */
export class LoopDevice implements AsyncDisposable {
  private constructor(readonly path: string) {}

  static async over(file: string): Promise<LoopDevice> {
    return new LoopDevice(await administer("losetup", "--find", "--show", file));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await administer("losetup", "--detach", this.path);
  }
}

/** A new ext4 file system, on a loop device over a file on disk. */
export class Ext4 implements AsyncDisposable {
  readonly #folder = new DiskFolder();
  readonly path = `${this.#folder.path}/mount`;
  #frozen = false;

  static async mount(sizeMib: number): Promise<Ext4> {
    const fs = new Ext4();
    const medium = `${fs.#folder.path}/medium`;
    Deno.mkdirSync(fs.path);
    Deno.writeFileSync(medium, new Uint8Array(0));
    Deno.truncateSync(medium, sizeMib * 2 ** 20);
    await administer("mkfs.ext4", "-q", "-F", medium);
    await administer("mount", "-o", "loop", medium, fs.path);
    return fs;
  }

  /** From now on, writes wait in the kernel. */
  async freeze(): Promise<void> {
    await administer("fsfreeze", "--freeze", this.path);
    this.#frozen = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#frozen) await administer("fsfreeze", "--unfreeze", this.path);
    // Lazily, because the image is still in use.
    await administer("umount", "--lazy", this.path);
    this.#folder[Symbol.dispose]();
  }
}

/** A file with every block allocated, in a folder of its own. */
export class AllocatedFile implements AsyncDisposable {
  readonly path: string;
  readonly #folder: string;

  private constructor(parent: string) {
    this.#folder = Deno.makeTempDirSync({ dir: parent, prefix: "xenblk-disks-" });
    this.path = `${this.#folder}/disk.img`;
  }

  static async create(parent: string, sizeMib: number): Promise<AllocatedFile> {
    const file = new AllocatedFile(parent);
    await administer("fallocate", "--length", `${sizeMib}MiB`, file.path);
    return file;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.#folder, { recursive: true });
  }
}

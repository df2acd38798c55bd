/**
 * A small tmpfs for the tests of what happens without room. No test is in here.
 */

import { assertMatch } from "@std/assert";
import { PAGE_BYTES } from "../../../lib/units.ts";

/** A mounted tmpfs. Disposing it unmounts it. */
export class SmallFileSystem implements AsyncDisposable {
  readonly #path: string;
  #isFull = false;

  private constructor(path: string) {
    this.#path = path;
  }

  /** Makes the directory. `size` is an option of mount: `8m`. */
  static async mount(path: string, size: string): Promise<SmallFileSystem> {
    Deno.mkdirSync(path, { mode: 0o700 });
    const args = ["-t", "tmpfs", "-o", `size=${size},mode=700`, "xenblk-test", path];
    const { success, stderr } = await new Deno.Command("mount", { args }).output();
    if (!success) throw new Error(`Cannot mount ${path}: ${new TextDecoder().decode(stderr)}`);
    return new SmallFileSystem(path);
  }

  /** Takes all bytes that are free, but for so many pages. */
  fill(freePages = 0): void {
    this.#isFull = true;
    using file = Deno.openSync(`${this.#path}/filler`, { write: true, create: true });
    const page = new Uint8Array(PAGE_BYTES);
    try {
      for (;;) file.writeSync(page);
    } catch (error) {
      assertMatch(String(error), /No space left/);
    }
    file.truncateSync(file.statSync().size - freePages * PAGE_BYTES);
  }

  /** Frees what {@linkcode fill} has taken. */
  makeRoom(): void {
    if (this.#isFull) Deno.removeSync(`${this.#path}/filler`);
    this.#isFull = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Deno.Command("umount", { args: ["--lazy", this.#path], stderr: "null" }).output();
  }
}

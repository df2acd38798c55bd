/**
 * Opens images by system calls in file threads, so that the caller never waits for storage that does not answer longer
 * than the calls' limit, and no other image waits at all.
 */

import { XenblkError } from "../../lib/errors.ts";
import type { LockableImage, Refusal } from "../../lib/hypervisor.ts";
import { type DescriptorLease, ImageDescriptors } from "../../lib/storage/image/descriptors.ts";
import { cannotOpen } from "../../lib/storage/image/explain.ts";
import {
  type FileCallOptions,
  FileThreads,
  fileThreads,
  StorageSilentError,
} from "../../lib/storage/image/file_threads.ts";
import type { ImageChannels, ImageOptions, NativeFiles, OpenedImage } from "../../lib/storage/image/medium.ts";
import type { ImageCall, ImageLook } from "./image_calls.ts";
import { lazily } from "../linux/library.ts";
import { ringRefusal } from "./setup.ts";

/** Most uses of one image that wait for its storage to be closed. */
const MOST_UNCLOSED = 8;

const MODULE = new URL("./image_calls.ts", import.meta.url).href;

/** Whether io_uring is allowed is found out once. */
const refusal = lazily(() => ({ found: ringRefusal() }));

/** Linux's system calls as storage uses them. */
export class LinuxFiles implements NativeFiles {
  readonly uringModule: string = new URL("./disk.ts", import.meta.url).href;
  readonly #threads: FileThreads;

  /** `threads`: for tests. */
  constructor(threads: FileThreads = fileThreads) {
    this.#threads = threads;
  }

  uringRefusal(): Refusal | undefined {
    return refusal().found;
  }

  prepare(): void {
    this.#threads.prepare(MODULE);
  }

  leave(): void {
    this.#threads.leave();
  }

  async open(path: string, options: ImageOptions): Promise<OpenedImage> {
    if (this.#threads.unclosed(path) >= MOST_UNCLOSED) throw tooManyUnclosed(path);
    const call: ImageCall = { module: MODULE, kind: "open", path, options };
    try {
      const look = await this.#threads.run<ImageLook>(call, {
        path,
        verb: "open",
        late: (look) => void new LinuxImage(path, options, look, this.#threads)[Symbol.asyncDispose]().catch(() => {}),
      });
      return new LinuxImage(path, options, look, this.#threads);
    } catch (error) {
      throw error instanceof XenblkError ? error : cannotOpen(path, options.readOnly, error);
    }
  }
}

/** Else each retry for an image whose lock, say, is not answered would leave one more descriptor open. */
function tooManyUnclosed(path: string): StorageSilentError {
  return new StorageSilentError(
    `Cannot open image ${path}: its storage does not answer (${MOST_UNCLOSED} earlier uses of it could not be closed)`,
    { remedy: "check the device or file server that it is on" },
  );
}

/** An image that is open; every call is made in a file thread. */
class LinuxImage implements OpenedImage, ImageChannels {
  readonly identity: OpenedImage["identity"];
  readonly below: NonNullable<OpenedImage["below"]>;
  readonly sizeBytes: number;
  readonly start: Uint8Array;
  readonly medium: NonNullable<OpenedImage["medium"]>;
  readonly descriptors: SharedArrayBuffer;
  readonly channels: ImageChannels = this;
  readonly #image: LockableImage;
  readonly #options: ImageOptions;
  readonly #threads: FileThreads;

  constructor(path: string, options: ImageOptions, look: ImageLook, threads: FileThreads) {
    ({
      identity: this.identity,
      below: this.below,
      sizeBytes: this.sizeBytes,
      start: this.start,
      medium: this.medium,
      descriptors: this.descriptors,
    } = look);
    this.#image = { path, identity: look.identity, descriptors: look.descriptors };
    this.#options = options;
    this.#threads = threads;
  }

  size(growTo?: number): Promise<number> {
    const call: ImageCall = {
      module: MODULE,
      kind: "size",
      image: this.#image,
      ...(growTo !== undefined && { growTo }),
    };
    return this.#run<number>(call, growTo === undefined ? "look at" : "resize");
  }

  isReplaced(): Promise<boolean> {
    return this.#run<boolean>({ module: MODULE, kind: "isReplaced", image: this.#image }, "look at");
  }

  async lease(): Promise<DescriptorLease> {
    const call: ImageCall = { module: MODULE, kind: "lease", image: this.#image, options: this.#options };
    try {
      const late = (lease: DescriptorLease): void => new ImageDescriptors(this.#image).release(lease);
      return await this.#run<DescriptorLease>(call, "open", late);
    } catch (error) {
      throw error instanceof XenblkError ? error : cannotOpen(this.#image.path, this.#options.readOnly, error);
    }
  }

  /** Closes all descriptors once no call uses them any more: then their numbers can be given to other files. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#threads.quiet(this.#image.path);
    const { path } = this.#image;
    const call: ImageCall = { module: MODULE, kind: "close", image: this.#image };
    await this.#threads.run<void>(call, { path, verb: "close", releases: true });
  }

  #run<T>(call: ImageCall, verb: string, late?: (result: T) => void): Promise<T> {
    const options: FileCallOptions<T> = { path: this.#image.path, verb, ...(late && { late }) };
    return this.#threads.run<T>(call, options);
  }
}

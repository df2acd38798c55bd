/**
 * What the storage tests share: an image file in a folder of its own, a channel with page buffers on a simulated
 * machine or on the real memory of this process, and a way to carry one operation out. No test is in here.
 */

import { openNativePlatform } from "../../ffi/platform.ts";
import { UringEngine, type UringEngineOptions } from "../../ffi/uring/engine.ts";
import { openImage } from "../../lib/storage/image/inspect.ts";
import { ImageDescriptors } from "../../lib/storage/image/descriptors.ts";
import type { FileMedium, ImageOptions, NativeFiles, UringAttachment } from "../../lib/storage/image/medium.ts";
import type { Parker, Platform, Refusal, WakeToken } from "../../lib/hypervisor.ts";
import type { CacheMode, ChannelOpener, Disk, DiskAttachment, DiskModule } from "../../lib/storage/disk.ts";
import type { ChannelPlace } from "../../lib/storage/channel.ts";
import * as file from "../../lib/storage/engine/file.ts";
import * as memory from "../../lib/storage/engine/memory.ts";
import * as none from "../../lib/storage/engine/null.ts";
import * as pool from "../../lib/storage/pool/channel.ts";
import type { ExecutorDescriptor } from "../../lib/storage/pool/executor_module.ts";
import { IoPool, type IoPoolLimits } from "../../lib/storage/pool/pool.ts";
import { type OpenContext, openDisk } from "../../lib/storage/open.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { ChannelDriver, type ChannelDriverOptions, PATIENCE_MS } from "../../lib/testing/channel_driver.ts";

/** The engines whose channels need nothing of their thread, by their modules. */
const ENGINES: ReadonlyMap<string, Pick<DiskModule, "openChannel">> = new Map(
  Object.entries({ "engine/file": file, "engine/memory": memory, "engine/null": none, "pool/channel": pool })
    .map(([name, module]) => [new URL(`../../lib/storage/${name}.ts`, import.meta.url).href, module]),
);

/** Opens channels of these engines. */
export const openChannel: ChannelOpener = (attachment, options) =>
  ENGINES.get(attachment.module)!.openChannel(attachment, options, undefined as never);

/** A folder that is removed with all its content. */
export class Folder implements Disposable {
  readonly path: string;

  /** In the folder for temporary files unless another is given. */
  constructor(under?: string) {
    this.path = Deno.makeTempDirSync({ prefix: "xenblk-storage-", ...(under === undefined ? {} : { dir: under }) });
  }

  /** Writes a file and returns its path. */
  file(name: string, content: Uint8Array | number): string {
    const path = `${this.path}/${name}`;
    if (typeof content !== "number") Deno.writeFileSync(path, content);
    else {
      using file = Deno.openSync(path, { write: true, create: true });
      file.truncateSync(content);
    }
    return path;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** A simulated machine large enough for the tests' buffers. */
export function simulatedPlatform(memoryBytes: number = 32 << 20): Platform {
  return openSimulatedPlatform(createMachine({ memoryBytes, domains: 2 }), 0);
}

/** A pool with this thread as reactor of lane 0, and the place where it sleeps. */
export class PoolRig implements AsyncDisposable {
  readonly platform: Platform;
  readonly pool: IoPool;
  readonly parker: Parker;
  readonly #token: WakeToken & Disposable;
  readonly #module: URL | undefined;

  /** `module` opens the executors in place of engine file's. */
  constructor(
    options: {
      platform?: Platform;
      workers?: number;
      module?: URL;
      warn?: (message: string) => void;
      limits?: Partial<IoPoolLimits>;
    } = {},
  ) {
    const { platform = simulatedPlatform(), module, ...rest } = options;
    this.platform = platform;
    this.pool = new IoPool({ platform: platform.descriptor, ...rest });
    this.#module = module;
    this.#token = platform.createWakeToken();
    this.parker = platform.openParker(this.#token);
    this.pool.addLane(0, this.#token);
  }

  /** This thread. */
  get place(): ChannelPlace {
    return { platform: this.platform, parker: this.parker, token: this.#token };
  }

  /** Opens a file through the pool. */
  open(path: string, readOnly = false, closeLimitMs?: number, warn?: (message: string) => void): Promise<Disk> {
    const module = this.#module?.href;
    const pool = module === undefined ? this.pool : {
      open: (name: string, executor: ExecutorDescriptor) => this.pool.open(name, { ...executor, module }),
    };
    const limit = closeLimitMs === undefined ? {} : { closeLimitMs };
    return openFile(path, { pool, ...limit, ...(warn && { warn }) }, readOnly);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pool[Symbol.asyncDispose]();
    this.parker[Symbol.dispose]();
    this.#token[Symbol.dispose]();
  }
}

/** This thread as a reactor: its io_uring serves files, and it sleeps there. */
export class UringRig implements Disposable {
  readonly platform = openNativePlatform();
  readonly parker: UringEngine;
  readonly #token = this.platform.createWakeToken();

  constructor(options: UringEngineOptions = {}) {
    this.parker = new UringEngine(this.#token, options);
  }

  /** This thread. */
  get place(): ChannelPlace {
    return { platform: this.platform, parker: this.parker, token: this.#token };
  }

  /** Opens a file for the ring. */
  open(
    path: string,
    options: { readOnly?: boolean; cache?: CacheMode; warn?: (message: string) => void } = {},
  ): Promise<Disk> {
    const { readOnly = false, cache = "writeback", warn = (): void => {} } = options;
    const request = { format: "raw", target: path, readOnly, engine: "uring", cache } as const;
    return openDisk(request, { native: this.platform.files, warn });
  }

  /** Opens channels of disks that {@linkcode open} opened. */
  readonly channels: ChannelOpener = (attachment, options) =>
    this.parker.openChannel(attachment as UringAttachment, options);

  [Symbol.dispose](): void {
    this.parker[Symbol.dispose]();
    this.#token[Symbol.dispose]();
  }
}

/** System calls on files, pretended: `look` says what an image turns out to be. No channel can be opened. */
export function pretendFiles(
  look: (options: ImageOptions) => Partial<FileMedium> = () => ({}),
  refusal?: Refusal,
): NativeFiles {
  return {
    prepare: () => {},
    leave: () => {},
    uringRefusal: () => refusal,
    uringModule: "file:///never/loaded.ts",
    open: async (path, options) => ({
      ...await openImage(path, options.readOnly),
      medium: pretendMedium(options, look(options)),
      channels: {
        descriptors: ImageDescriptors.allocate(),
        lease: () => Promise.resolve({ entry: 1, given: 1 }),
        isReplaced: () => Promise.resolve(false),
      },
    }),
  };
}

/** What an image turns out to be. */
export function pretendMedium({ direct }: ImageOptions, facts: Partial<FileMedium> = {}): FileMedium {
  return {
    routes: { direct: direct && facts.notDirect === undefined, reads: "ring", writes: "call" },
    logicalSectorBytes: 512,
    physicalSectorBytes: 4096,
    uses: [],
    ...facts,
  };
}

/** Opens a raw image file. */
export function openFile(path: string, context: OpenContext, readOnly = false): Promise<Disk> {
  return openDisk({ format: "raw", target: path, readOnly, engine: "auto" }, context);
}

/** Writes the header of a qcow2 image with that backing file, and nothing else of it. */
export function writeOverlayHeader(path: string, backing: string): void {
  const header = new Uint8Array(512);
  const view = new DataView(header.buffer);
  view.setUint32(0, 0x514649fb); // "QFI\xfb"
  view.setBigUint64(8, 128n);
  view.setUint32(16, backing.length);
  header.set(new TextEncoder().encode(backing), 128);
  Deno.writeFileSync(path, header);
}

/** A driver of a channel of storage's own engines, and of others; it also waits without the event loop. */
export class ChannelRig extends ChannelDriver {
  constructor(
    attachment: DiskAttachment,
    options: Omit<ChannelDriverOptions, "open"> & {
      /** Absent: {@linkcode openChannel}. */
      readonly open?: ChannelOpener | undefined;
    },
  ) {
    super(attachment, { ...options, open: options.open ?? openChannel });
  }

  /** Submits, and waits until something is reaped; returns results by tag. */
  reapSome(): Map<number, number> {
    this.channel.submit();
    for (const deadline = performance.now() + PATIENCE_MS;;) {
      const results = this.reapNow();
      if (results.size > 0) return results;
      if (performance.now() > deadline) throw new Error("no completion came");
      this.parker?.park(PATIENCE_MS);
    }
  }

  /** Submits, waits for everything in flight and returns results by tag. */
  finish(): Map<number, number> {
    const results = new Map<number, number>();
    while (this.channel.inFlight > 0) {
      for (const [tag, result] of this.reapSome()) results.set(tag, result);
    }
    return results;
  }

  /** One read into tag 0's buffer; returns the result. */
  readNow(offsetBytes: number, lengthBytes: number): number {
    this.read(0, offsetBytes, [lengthBytes]);
    return this.finish().get(0)!;
  }

  /** One write of tag 0's buffer; returns the result. */
  writeNow(offsetBytes: number, lengthBytes: number): number {
    this.write(0, offsetBytes, [lengthBytes]);
    return this.finish().get(0)!;
  }
}

/** Descriptors of files below a folder that this process has open, in any thread. */
export function openBelow(folder: string): number {
  return [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => linkOf(name).startsWith(`${folder}/`)).length;
}

function linkOf(descriptor: string): string {
  try {
    return Deno.readLinkSync(`/proc/self/fd/${descriptor}`);
  } catch {
    return ""; // closed meanwhile: it was the listing's own
  }
}

/** Resolves once the condition holds. */
export async function eventually(holds: () => boolean, what: string): Promise<void> {
  for (const end = performance.now() + 20_000; !holds();) {
    if (performance.now() > end) throw new Error(`not so: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** A deterministic source of numbers in [0, 1). */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/**
 * The rows of the isolation table: what one guest, its image or the store does while another guest must notice nothing.
 */

import { frontendPath } from "../../../lib/xenbus/paths.ts";
import type { LoadSpec } from "../../../lib/guest/load_types.ts";
import { HangingFileSystem, type HangingOperation } from "../hanging_fs.ts";
import type { GuestDisk } from "../serve/guest.ts";
import { AllocatedFile, Ext4, LoopDevice } from "./media.ts";
import { HOSTILE, type Hostility, type Scene } from "./scene.ts";

const IMAGE_BYTES = 2 ** 30;
/** Two rings of 32 slots: more than a FUSE file system takes in the background. */
const FULL: LoadSpec = {
  seed: 1,
  pattern: "random",
  readShare: 1,
  blockBytes: [4096],
  depth: 64,
  flushEvery: 0,
  barrierEvery: 0,
};
const SHAPE = { queues: 2 };
/** What reaches an operation, besides reads. */
const LOADS: Partial<Record<HangingOperation, Partial<LoadSpec>>> = {
  write: { readShare: 0 },
  fsync: { readShare: 0, flushEvery: 1 },
  fallocate: { readShare: 0, discardEvery: 1 },
};

async function hangingFiles(scene: Scene): Promise<HangingFileSystem> {
  return scene.media.use(await HangingFileSystem.mount());
}

type Options = Partial<Omit<Hostility, "name" | "prepare">>;

/** The name of a row, with what its options add to it. */
function named(name: string, options: Options): Omit<Hostility, "prepare"> {
  return { ...options, name: [name, ...options.args ?? [], ...options.kept ? ["uninterruptible"] : []].join(", ") };
}

/** File servers honour interrupts, except in rows in which the kernel keeps what waits for them. */
function interrupts({ kept }: Options): "interrupts"[] {
  return kept ? [] : ["interrupts"];
}

/** The hostile guest's attempt to use a disk; it may never succeed. */
function attempt(use: Promise<unknown>): void {
  use.catch(() => {});
}

const ORDINALS = ["first", "second", "third"];

/** Images that hang while they are opened, or at the first read: a row per operation. */
function hungAtOpen(
  operation: HangingOperation,
  { images = 1, after = 0, ...options }: { images?: number; after?: number } & Options = {},
): Hostility {
  const name = `${ORDINALS[after]} ${operation} of ${images === 1 ? "an image" : `${images} images`} hangs`;
  return {
    ...named(name, options),
    prepare: async (scene) => {
      const files = await Promise.all(Array.from({ length: images }, () => hangingFiles(scene)));
      await scene.guest(HOSTILE);
      return async () => {
        for (const fuse of files) {
          const image = fuse.image("disk.img", IMAGE_BYTES);
          await fuse.hang(operation, `after=${after}`, ...interrupts(options));
          const { disk } = await scene.disk(HOSTILE, image);
          attempt(disk.connect().then(() => disk.startMeasure(FULL)));
          await fuse.untilHeld(operation);
        }
      };
    },
  };
}

/** Requests that hang on connected disks. */
function hungRequests(
  operation: HangingOperation,
  { images = 1, ...options }: { images?: number } & Options = {},
): Hostility {
  const name = `${operation} requests of ${images === 1 ? "an image" : `${images} images`} hang`;
  return {
    ...named(name, options),
    prepare: async (scene) => {
      const hung: { fuse: HangingFileSystem; disk: GuestDisk }[] = [];
      for (let n = 0; n < images; n++) {
        const fuse = await hangingFiles(scene);
        hung.push({ fuse, disk: await scene.connected(fuse.image("disk.img", IMAGE_BYTES), SHAPE) });
      }
      return async () => {
        for (const { fuse, disk } of hung) {
          await fuse.hang(operation, ...interrupts(options));
          await disk.startMeasure({ ...FULL, ...LOADS[operation] });
          await fuse.untilHeld(operation);
        }
      };
    },
  };
}

/** The image hangs when it is closed, because its guest detaches. */
const HUNG_CLOSE: Hostility = {
  name: "close of an image hangs",
  short: true,
  prepare: async (scene) => {
    const fuse = await hangingFiles(scene);
    const disk = await scene.connected(fuse.image("disk.img", IMAGE_BYTES));
    return async () => {
      await fuse.hang("flush", "interrupts");
      attempt(disk.disconnect());
      await fuse.untilHeld("flush");
    };
  },
};

/** A block device that hangs: a loop device over a file that hangs. */
function hungLoop(operation: HangingOperation, short = false): Hostility {
  return {
    name: `${operation} requests of a loop device hang`,
    short,
    kept: true,
    prepare: async (scene) => {
      const fuse = await HangingFileSystem.mount();
      const loop = await LoopDevice.over(fuse.image("disk.img", IMAGE_BYTES));
      scene.media.defer(async () => {
        await fuse[Symbol.asyncDispose]();
        await loop[Symbol.asyncDispose]();
      });
      const disk = await scene.connected(loop.path, SHAPE);
      return async () => {
        await fuse.hang(operation);
        await disk.startMeasure({ ...FULL, ...LOADS[operation] });
        await fuse.untilHeld(operation);
      };
    },
  };
}

const FROZEN: Hostility = {
  name: "writes to a frozen ext4",
  kept: true,
  prepare: async (scene) => {
    const fs = scene.media.use(await Ext4.mount(256));
    using image = Deno.openSync(`${fs.path}/disk.img`, { write: true, create: true });
    image.truncateSync(2 ** 27);
    const disk = await scene.connected(`${fs.path}/disk.img`, SHAPE);
    return async () => {
      await fs.freeze();
      await disk.startMeasure({ ...FULL, readShare: 0 });
    };
  },
};

function stateFlood(name: string, ownNodes: boolean): Hostility {
  return {
    name,
    short: ownNodes,
    prepare: async (scene) => {
      const { device } = await scene.disk(HOSTILE);
      const path = ownNodes ? frontendPath(device) : `/local/domain/${HOSTILE}/data/flood`;
      return () => scene.program("../serve/flood_process.ts", "states", path, "1000000000");
    },
  };
}

/** Discards of a whole disk, with writes behind them. */
function discards(parent: string, sizeMib: number): Hostility {
  return {
    name: `discards of ${sizeMib} MiB on ${parent === "/dev/shm" ? "tmpfs" : "the disk's file system"}`,
    short: parent === "/dev/shm",
    prepare: async (scene) => {
      const file = scene.media.use(await AllocatedFile.create(parent, sizeMib));
      const { device } = await scene.disk(HOSTILE, file.path);
      return () => scene.program("hostile_process.ts", "discard", frontendPath(device));
    },
  };
}

/** Four full rings of the largest reads, from the page cache. */
const LARGE_READS: Hostility = {
  name: "four full rings of reads of 1 MiB",
  short: true,
  prepare: async (scene) => {
    const shape = { ringPages: 16, queues: 4, segments: 256, requests: 96 };
    const disk = await scene.connected(undefined, shape);
    return () => disk.startMeasure({ ...FULL, blockBytes: [2 ** 20], depth: 96 });
  },
};

const FIRING: Hostility = {
  name: "two ports that fire for ever",
  short: true,
  prepare: async (scene) => {
    const { device } = await scene.disk(HOSTILE);
    return () => scene.program("hostile_process.ts", "fire", frontendPath(device));
  },
};

const BAD_REQUESTS: Hostility = {
  name: "requests beyond the end of the disk",
  prepare: async (scene) => {
    const disk = await scene.connected(undefined, SHAPE);
    const area = { firstSector: 2 ** 20, sectors: 2 ** 20 };
    return () => disk.startMeasure({ ...FULL, area }, 2 ** 21);
  },
};

const STOPPED_STORE: Hostility = {
  name: "a stopped xenstored",
  short: true,
  noStore: true,
  prepare: (scene) => {
    const signal = (name: Deno.Signal): void => Deno.kill(scene.xen.xenstoredPid!, name);
    scene.media.defer(() => signal("SIGCONT"));
    return Promise.resolve(() => Promise.resolve(signal("SIGSTOP")));
  },
};

/** A disk in TypeScript whose process does that, again and again. */
function hostilePlugin(how: string, short = false): Hostility {
  const module = new URL("./hostile_disk.ts", import.meta.url).pathname;
  return {
    name: `a disk in TypeScript ${how}`,
    short,
    args: ["--allow-image", `plugin:${module}?**`, "--plugin-timeout", "0.5", "--plugin-memory", "64M"],
    prepare: async (scene) => {
      const disk = await scene.connected(`plugin:${module}?${how}`, SHAPE);
      return () => disk.startMeasure(FULL);
    },
  };
}

const POOLED = ["--engine", "file"];

/** All rows. */
export const HOSTILITIES: readonly Hostility[] = [
  { name: "nothing", short: true, prepare: () => Promise.resolve(() => Promise.resolve()) },
  hungAtOpen("lookup"),
  hungAtOpen("getattr"),
  hungAtOpen("open", { short: true }),
  hungAtOpen("open", { after: 1 }),
  hungAtOpen("open", { after: 2 }),
  hungAtOpen("open", { kept: true }),
  hungAtOpen("open", { images: 3 }),
  hungAtOpen("lock"),
  hungAtOpen("read"),
  hungRequests("read", { short: true }),
  hungRequests("read", { args: POOLED }),
  hungRequests("read", { images: 2 }),
  hungRequests("read", { images: 3 }),
  hungRequests("write"),
  hungRequests("write", { args: POOLED }),
  hungRequests("fsync", { kept: true, short: true }),
  hungRequests("fsync", { args: POOLED }),
  hungRequests("fsync", { images: 3 }),
  hungRequests("fallocate"),
  HUNG_CLOSE,
  hungLoop("read", true),
  hungLoop("fsync"),
  FROZEN,
  stateFlood("a flood of nodes that nobody serves", false),
  stateFlood("a flood of states", true),
  discards("/dev/shm", 2560),
  discards("/tmp", 3072),
  LARGE_READS,
  FIRING,
  BAD_REQUESTS,
  STOPPED_STORE,
  hostilePlugin("loops", true),
  hostilePlugin("is silent"),
  hostilePlugin("exits"),
  hostilePlugin("takes memory"),
];

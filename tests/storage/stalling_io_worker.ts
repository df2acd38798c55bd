/**
 * An I/O Worker whose files can be made to stall or to be swapped: while `<path>.stall` exists, their calls do not
 * return. Stands in for a disk that hangs; otherwise it is the real one.
 */

/// <reference lib="deno.worker" />

import type { BlockFile } from "../../lib/storage/engine/executor.ts";
import { type ImageFile, openSameFile } from "../../lib/storage/image/file.ts";
import { runIoWorker } from "../../lib/storage/pool/loop.ts";
import { openPlatform } from "../../platform.ts";

const clock = new Int32Array(new SharedArrayBuffer(4));

function stallable(image: ImageFile): BlockFile {
  const file = openSameFile(image);
  const stall = (): void => {
    while (exists(`${image.path}.stall`)) Atomics.wait(clock, 0, 0, 2);
  };
  return {
    seekSync: (offset, whence) => file.seekSync(offset, whence),
    readSync: (into) => {
      stall();
      return file.readSync(into);
    },
    writeSync: (from) => {
      stall();
      return file.writeSync(from);
    },
    syncDataSync: () => file.syncDataSync(),
    close: () => file.close(),
  };
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

void runIoWorker(self, { openPlatform, openFile: stallable });

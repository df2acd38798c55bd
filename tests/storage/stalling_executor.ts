/**
 * An executor of a file that can be made to stall: while `<path>.stall` exists, opening it and its calls do not return. Stands in for a
 * disk that hangs; otherwise it is engine file's.
 */

import { type BlockFile, type Executor, FileExecutor } from "../../lib/storage/engine/executor.ts";
import type { FileDescriptor } from "../../lib/storage/engine/file.ts";
import { type ImageFile, openSameFile } from "../../lib/storage/image/file.ts";

const clock = new Int32Array(new SharedArrayBuffer(4));

/** See ExecutorModule. */
export function openExecutor({ image }: FileDescriptor): Executor {
  return new FileExecutor(stallable(image), image.cache);
}

function stallable(image: ImageFile): BlockFile {
  const stall = (): void => {
    while (exists(`${image.path}.stall`)) Atomics.wait(clock, 0, 0, 2);
  };
  stall();
  const file = openSameFile(image);
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

/**
 * Journals and latches as files below /run, mapped shared: the next process finds what was stored in them, however this
 * process ends. A reboot removes them; the guests are gone then too. The device locks are files beside them.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { XenblkError } from "../../lib/errors.ts";
import { type JournalStore, type OwnedMemory } from "../../lib/hypervisor.ts";
import { JOURNAL_DIRECTORY, journalDirectory } from "../../lib/journal_directory.ts";
import { cString, errno, errnoText, libc, MAP_SHARED, PROT_READ, PROT_WRITE } from "./libc.ts";
import { NativeMemory } from "./memory.ts";

const MAP_FAILED = 0xFFFF_FFFF_FFFF_FFFFn;
const O_RDWR_CLOEXEC = 0x80002;

/** The files of one directory. */
export class JournalFiles implements JournalStore {
  readonly #directory: string;

  constructor(directory: string = configuredDirectory()) {
    this.#directory = directory;
  }

  /** Throws {@linkcode XenblkError} if the file cannot be made or mapped. */
  open(name: string, lengthBytes: number): OwnedMemory {
    const path = `${this.#directory}/${name}`;
    try {
      this.#prepare(path, lengthBytes);
    } catch (error) {
      throw cannotKeep(path, error instanceof Error ? error.message : String(error));
    }
    return mapFile(path, lengthBytes);
  }

  /** None where there is no directory. */
  names(): string[] {
    try {
      return [...Deno.readDirSync(this.#directory)].filter(({ isFile }) => isFile).map(({ name }) => name);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }

  /** No error for one that may not be removed: it was made by another user, and its nonce keeps us from using it. */
  remove(name: string): void {
    const { NotFound, NotCapable, PermissionDenied } = Deno.errors;
    try {
      Deno.removeSync(`${this.#directory}/${name}`);
    } catch (error) {
      if (![NotFound, NotCapable, PermissionDenied].some((kind) => error instanceof kind)) throw error;
    }
  }

  /** A lock file: the kernel releases the lock when the process ends. Throws {@linkcode XenblkError}. */
  lock(name: string): Disposable | undefined {
    const path = `${this.#directory}/${name}`;
    try {
      Deno.mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
      // Another process may remove the file just before we lock it: then it is made again.
      for (;;) {
        using undo = new DisposableStack();
        const file = undo.adopt(
          Deno.openSync(path, { write: true, create: true, mode: 0o600 }),
          (file) => file.close(),
        );
        if (!file.tryLockSync(true)) return undefined;
        if (!isAt(path, file)) continue;
        undo.defer(() => this.remove(name));
        return undo.move();
      }
    } catch (error) {
      throw cannotKeep(path, error instanceof Error ? error.message : String(error));
    }
  }

  /** Creates the file with all its blocks allocated, so that a full /run fails here and not later with SIGBUS. */
  #prepare(path: string, lengthBytes: number): void {
    Deno.mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    using file = Deno.openSync(path, { read: true, write: true, create: true, mode: 0o600 });
    if (file.statSync().size === lengthBytes) return;
    file.truncateSync(0);
    const zeroes = new Uint8Array(lengthBytes);
    for (let written = 0; written < lengthBytes;) written += file.writeSync(zeroes.subarray(written));
  }
}

/** Whether the path still names the open file. */
function isAt(path: string, file: Deno.FsFile): boolean {
  try {
    return Deno.statSync(path).ino === file.statSync().ino;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function configuredDirectory(): string {
  try {
    return journalDirectory((name) => Deno.env.get(name));
  } catch {
    return JOURNAL_DIRECTORY; // not permitted to look
  }
}

function mapFile(path: string, lengthBytes: number): OwnedMemory {
  const fd = libc().open(cString(path), O_RDWR_CLOEXEC, 0);
  if (fd < 0) throw cannotKeep(path, errnoText(errno()));
  const mapped = BigInt(Math.ceil(lengthBytes / PAGE_BYTES) * PAGE_BYTES);
  const address = libc().mmap(null, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0n);
  const reason = errno();
  libc().close(fd);
  if (address === MAP_FAILED) throw cannotKeep(path, errnoText(reason));
  return new NativeMemory(Number(address), lengthBytes, () => {
    libc().munmap(address, mapped);
  });
}

function cannotKeep(path: string, why: string): XenblkError {
  return new XenblkError(`Cannot keep ${path}: ${why}`, {
    remedy: "make the directory writable, or name another with XENBLK_JOURNAL_DIR",
  });
}

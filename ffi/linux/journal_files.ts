/**
 * Journals and latches as files below /run, mapped shared: the next process finds what was stored in them, however this
 * process ends. A reboot removes them; the guests are gone then too. The device locks are files beside them.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { EAGAIN, EDQUOT, EMFILE, ENFILE, ENOSPC, EOPNOTSUPP } from "../../lib/errno.ts";
import { errorText, XenblkError } from "../../lib/errors.ts";
import { type JournalStore, type KeptMemory } from "../../lib/hypervisor.ts";
import { JOURNAL_DIRECTORY, journalDirectory } from "../../lib/journal_directory.ts";
import { errnoOf } from "../../lib/storage/errno.ts";
import { factsOf } from "./image_descriptor.ts";
import { cString, errno, errnoText, libc, MAP_SHARED, PROT_READ, PROT_WRITE } from "./libc.ts";
import { NativeMemory } from "./memory.ts";

const MAP_FAILED = 0xFFFF_FFFF_FFFF_FFFFn;
/** O_RDWR, O_CREAT, O_CLOEXEC and O_NOFOLLOW, which differs between architectures. */
const OPEN_OR_CREATE = 0x80042 | (Deno.build.arch === "aarch64" ? 0x8000 : 0x20000);
const OWNER_ONLY = 0o600;
/** FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE. */
const PUNCH_HOLE = 3;
/** LOCK_EX and LOCK_NB of flock(2). */
const LOCK_AT_ONCE = 6;

/** The files of one directory. */
export class JournalFiles implements JournalStore {
  readonly #directory: string;

  constructor(directory: string = configuredDirectory()) {
    this.#directory = directory;
  }

  /**
   * Throws {@linkcode XenblkError} if the file cannot be made or mapped, or is open already: the mapping holds a lock
   * on the file until it is unmapped, however the process ends.
   */
  open(name: string, lengthBytes: number, firstBytes = lengthBytes): KeptMemory {
    const path = this.#prepare(name);
    using undo = new DisposableStack();
    const fd = libc().open(cString(path), OPEN_OR_CREATE, OWNER_ONLY);
    if (fd < 0) throw cannotKeep(path, errno());
    undo.defer(() => void libc().close(fd));
    if (libc().flock(fd, LOCK_AT_ONCE) < 0) throw cannotKeep(path, errno());
    allocateBlocks(path, fd, BigInt(lengthBytes), BigInt(firstBytes));
    if (firstBytes === lengthBytes) return new MappedFile(path, mapFile(path, fd, lengthBytes));
    return new MappedFile(path, mapFile(path, fd, lengthBytes), { fd, owned: undo.move() });
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

  /** No error for one that cannot be removed, for instance on a read-only file system: its nonce makes it harmless. */
  remove(name: string): void {
    try {
      Deno.removeSync(`${this.#directory}/${name}`);
    } catch (error) {
      if (!(error instanceof Error) || error instanceof TypeError) throw error;
    }
  }

  /** A lock file: the kernel releases the lock when the process ends. Throws {@linkcode XenblkError}. */
  lock(name: string): Disposable | undefined {
    const path = this.#prepare(name);
    try {
      // Another process may remove the file just before we lock it: then it is made again.
      for (;;) {
        using undo = new DisposableStack();
        const file = undo.adopt(
          Deno.openSync(path, { write: true, create: true, mode: OWNER_ONLY }),
          (file) => file.close(),
        );
        if (!file.tryLockSync(true)) return undefined;
        if (!isAt(path, file)) continue;
        undo.defer(() => this.remove(name));
        return undo.move();
      }
    } catch (error) {
      throw cannotKeep(path, -errnoOf(error), errorText(error));
    }
  }

  /** Makes the directory; returns the path of the file in it. */
  #prepare(name: string): string {
    const path = `${this.#directory}/${name}`;
    try {
      Deno.mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw cannotKeep(path, -errnoOf(error), errorText(error));
    }
    return path;
  }
}

/** A mapped file. With parts that are absent its descriptor stays open. */
class MappedFile implements KeptMemory {
  readonly address: number;
  readonly view: Uint8Array<ArrayBuffer>;
  readonly #path: string;
  readonly #memory: NativeMemory;
  readonly #file: { readonly fd: number; readonly owned: Disposable } | undefined;

  constructor(path: string, memory: NativeMemory, file?: { readonly fd: number; readonly owned: Disposable }) {
    this.address = memory.address;
    this.view = memory.view;
    this.#path = path;
    this.#memory = memory;
    this.#file = file;
  }

  reserve(offsetBytes: number, lengthBytes: number): void {
    if (this.#file === undefined) return;
    if (libc().fallocate(this.#file.fd, 0, BigInt(offsetBytes), BigInt(lengthBytes)) === 0) return;
    // Then the file was written as a whole when it was opened.
    if (errno() !== EOPNOTSUPP) throw cannotKeep(this.#path, errno());
  }

  release(offsetBytes: number, lengthBytes: number): void {
    if (this.#file !== undefined) libc().fallocate(this.#file.fd, PUNCH_HOLE, BigInt(offsetBytes), BigInt(lengthBytes));
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
    this.#file?.owned[Symbol.dispose]();
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

/**
 * Gives the file its length with its first blocks allocated, so that a full /run fails here and not later with SIGBUS.
 * A file of another length was cut off, or belongs to another ring: it starts empty. The contents of others stay. All by
 * the descriptor: the path may name another file by now.
 */
function allocateBlocks(path: string, fd: number, lengthBytes: bigint, firstBytes: bigint): void {
  const check = (result: number): void => {
    if (result < 0) throw cannotKeep(path, errno());
  };
  const known = BigInt(factsOf(fd).sizeBytes) === lengthBytes;
  if (!known) check(libc().ftruncate(fd, 0n));
  if (libc().fallocate(fd, 0, 0n, firstBytes) === 0) return check(libc().ftruncate(fd, lengthBytes));
  if (errno() !== EOPNOTSUPP) throw cannotKeep(path, errno());
  if (known) return;
  const zeroes = new Uint8Array(Number(lengthBytes));
  for (let written = 0; written < zeroes.length;) {
    const count = libc().writeBytes(fd, zeroes.subarray(written), lengthBytes - BigInt(written));
    check(count);
    written += count;
  }
}

function mapFile(path: string, fd: number, lengthBytes: number): NativeMemory {
  const mapped = BigInt(Math.ceil(lengthBytes / PAGE_BYTES) * PAGE_BYTES);
  const address = libc().mmap(null, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0n);
  if (address === MAP_FAILED) throw cannotKeep(path, errno());
  return new NativeMemory(Number(address), lengthBytes, () => {
    libc().munmap(address, mapped);
  });
}

function cannotKeep(path: string, reason: number, text = errnoText(reason)): XenblkError {
  const why = reason === EAGAIN ? "another process, or a ring of this one that is still closing, has it open" : text;
  return new XenblkError(`Cannot keep ${path}: ${why}`, { remedy: remedyFor(reason) });
}

function remedyFor(reason: number): string {
  switch (reason) {
    case EAGAIN:
      return "end that process first";
    case ENOSPC:
    case EDQUOT:
      return "free space or inodes there, or name another directory with XENBLK_JOURNAL_DIR";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files: LimitNOFILE= in the service's unit, or ulimit -n";
    default:
      return "make the directory writable, or name another with XENBLK_JOURNAL_DIR";
  }
}

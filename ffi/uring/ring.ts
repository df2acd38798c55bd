/**
 * An io_uring as its one thread uses it: preparing submissions, entering the kernel, looking at completions, registered
 * files.
 */

import { errno, LIBC_SOURCE, pointerTo } from "../linux/libc.ts";
import { lazily, openLibrary } from "../linux/library.ts";
import { CQE_WORDS, type MappedRing, openRing, type RingOptions, SQE_WORDS } from "./setup.ts";
import { allocate, type NativeMemory } from "../linux/memory.ts";

/** Operation codes (io_uring.h: enum io_uring_op). */
export const IORING_OP = {
  readv: 1,
  writev: 2,
  fsync: 3,
  pollAdd: 6,
  pollRemove: 7,
  fallocate: 17,
  read: 22,
  write: 23,
  uringCommand: 46,
} as const;

/** To be or-ed to an operation code: the descriptor is an index into the registered files (IOSQE_FIXED_FILE). */
export const FIXED_FILE = 1 << 8;
/** A completion's flag: the same submission will complete again (IORING_CQE_F_MORE). */
export const CQE_MORE = 2;

const ENTER_GETEVENTS = 1;
const ENTER_EXT_ARG = 8;
/** Flags in the submission ring: completions wait in the kernel (CQ_OVERFLOW), deferred work waits (TASKRUN). */
const SQ_WORK_WAITS = 2 | 4;

const REGISTER_FILES = 2;
const REGISTER_FILES_UPDATE = 6;
const REGISTER_IOWQ_MAX_WORKERS = 19;
const NO_FILE = -1;

const SYS_ENTER = 426n;
const SYS_REGISTER = 427n;
const NO_ARGUMENT_BYTES = 0n;
/** Bytes of struct io_uring_getevents_arg; a struct timespec follows it here. */
const ARGUMENT_BYTES = 24n;
const NS_PER_MS = 1e6;
const NS_PER_S = 1e9;
/** As poll(2) has it. */
const LONGEST_TIMEOUT_MS = 0x7FFF_FFFF;

/* syscall(2) is variadic in C; the ABIs of x86-64 and aarch64 Linux pass these like fixed parameters. */
const SYMBOLS = {
  enter: {
    name: "syscall",
    parameters: [
      "i64", /* number */
      "i32", /* fd */
      "u32", /* to_submit */
      "u32", /* min_complete */
      "u32", /* flags */
      "pointer", /* arg */
      "u64", /* argsz */
    ],
    result: "i32",
  },
  register: {
    name: "syscall",
    parameters: ["i64", /* number */ "i32", /* fd */ "u32", /* opcode */ "pointer", /* arg */ "u32" /* nr_args */],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;

const calls = lazily(() => openLibrary(LIBC_SOURCE, SYMBOLS).symbols);

/** A ring. Disposing it while operations are in flight leaves their memory to the kernel: never do. */
export class IoUring implements Disposable {
  /** Completions, CQE_WORDS words each; entry `index & completionMask` for every index from head up to tail. */
  readonly completions: Int32Array;
  readonly completionMask: number;
  readonly #calls = calls();
  readonly #ring: MappedRing;
  readonly #words: Int32Array;
  readonly #sqes: Uint32Array;
  readonly #entryMask: number;
  /** Index behind the last submission that was prepared; published when the kernel is entered. */
  #tail: number;
  readonly #scratch: NativeMemory;
  /** Low and high words of a struct timespec's seconds and nanoseconds. */
  readonly #timeout: Uint32Array;
  readonly #scratchPointer: Deno.PointerObject;
  #freeFiles: number[] = [];

  /** Throws RingUnavailable. */
  constructor(options: RingOptions) {
    const ring = openRing(options);
    this.#ring = ring;
    this.#words = ring.words;
    this.#sqes = ring.sqes;
    this.#entryMask = ring.entries - 1;
    this.#tail = ring.words[ring.sqTail]!;
    this.completions = ring.completions;
    this.completionMask = ring.completionCount - 1;
    this.#scratch = allocate(3 * Number(ARGUMENT_BYTES));
    this.#scratchPointer = pointerTo(this.#scratch.address);
    this.#timeout = new Uint32Array(this.#scratch.view.buffer, Number(ARGUMENT_BYTES), 4);
    // struct io_uring_getevents_arg: no signal mask; the address of the timeout behind it.
    new BigUint64Array(this.#scratch.view.buffer)[2] = BigInt(this.#scratch.address) + ARGUMENT_BYTES;
  }

  /** The setup flags that the kernel took. */
  get setupFlags(): number {
    return this.#ring.flags;
  }

  /** Submissions prepared and not yet taken by the kernel. */
  get prepared(): number {
    return (this.#tail - Atomics.load(this.#words, this.#ring.sqHead)) | 0;
  }

  /** Room for one more {@linkcode prepare}. */
  get hasRoom(): boolean {
    return this.prepared <= this.#entryMask;
  }

  /**
   * Prepares a submission; see struct io_uring_sqe for what each word means to an operation. There must be room. 64-bit
   * values come as two words, low first.
   */
  prepare(
    opcode: number,
    fd: number,
    offset: number,
    address: number,
    length: number,
    operationFlags: number,
    userLow: number,
    userHigh: number,
  ): void {
    const at = (this.#tail & this.#entryMask) * SQE_WORDS;
    const sqes = this.#sqes;
    sqes[at] = opcode;
    sqes[at + 1] = fd;
    sqes[at + 2] = offset; // modulo 2^32
    sqes[at + 3] = offset / 0x1_0000_0000;
    sqes[at + 4] = address;
    sqes[at + 5] = address / 0x1_0000_0000;
    sqes[at + 6] = length;
    sqes[at + 7] = operationFlags;
    sqes[at + 8] = userLow;
    sqes[at + 9] = userHigh;
    sqes[at + 10] = 0;
    sqes[at + 11] = 0;
    sqes[at + 12] = 0;
    sqes[at + 13] = 0;
    this.#tail = (this.#tail + 1) | 0;
  }

  /** Sets the third address of the submission that was prepared last (`addr3`). */
  setThirdAddress(value: number): void {
    const at = ((this.#tail - 1) & this.#entryMask) * SQE_WORDS;
    this.#sqes[at + 12] = value;
    this.#sqes[at + 13] = value / 0x1_0000_0000;
  }

  /** Index of the first completion that was not consumed. */
  get completionHead(): number {
    return this.#words[this.#ring.cqHead]!;
  }

  /** Index behind the last completion that is there. */
  get completionTail(): number {
    return Atomics.load(this.#words, this.#ring.cqTail);
  }

  /** The result of the completion with that index, which is there. */
  completionResult(index: number): number {
    return this.completions[(index & this.completionMask) * CQE_WORDS + 2]!;
  }

  /** Gives completions before `head` back to the kernel. */
  consume(head: number): void {
    Atomics.store(this.#words, this.#ring.cqHead, head);
  }

  /** Whether entering the kernel would bring completions to light that are done already. */
  get workWaits(): boolean {
    return (Atomics.load(this.#words, this.#ring.sqFlags) & SQ_WORK_WAITS) !== 0;
  }

  /**
   * One io_uring_enter(2): hands over what was prepared and waits for `completions` completions (0: does not wait), at
   * most `timeoutMs` (-1: no timeout). Returns how many submissions were taken, or a negative errno: interrupted
   * (-EINTR), timed out (-ETIME), or out of memory (-EAGAIN, -EBUSY), where what was prepared stays so.
   */
  enter(completions: number, timeoutMs: number): number {
    Atomics.store(this.#words, this.#ring.sqTail, this.#tail);
    const prepared = this.prepared;
    let taken: number;
    if (completions === 0 || timeoutMs < 0) {
      taken = this.#calls.enter(
        SYS_ENTER,
        this.#ring.fd,
        prepared,
        completions,
        ENTER_GETEVENTS,
        null,
        NO_ARGUMENT_BYTES,
      );
    } else {
      this.#setTimeout(timeoutMs);
      taken = this.#calls.enter(
        SYS_ENTER,
        this.#ring.fd,
        prepared,
        completions,
        ENTER_GETEVENTS | ENTER_EXT_ARG,
        this.#scratchPointer,
        ARGUMENT_BYTES,
      );
    }
    return taken < 0 ? -errno() : taken;
  }

  /** Makes room for so many registered files. Where the kernel refuses, {@linkcode registerFile} never succeeds. */
  reserveFiles(count: number): void {
    using none = allocate(count * Int32Array.BYTES_PER_ELEMENT);
    new Int32Array(none.view.buffer).fill(NO_FILE);
    const pointer = pointerTo(none.address);
    if (this.#calls.register(SYS_REGISTER, this.#ring.fd, REGISTER_FILES, pointer, count) < 0) return;
    this.#freeFiles = Array.from({ length: count }, (_, index) => count - 1 - index);
  }

  /**
   * Allows so many kernel threads for operations on files and block devices that block. They belong to the calling thread,
   * with all of its rings. A kernel before 5.15 keeps its own limit.
   */
  limitWorkers(count: number): void {
    using limits = allocate(2 * Uint32Array.BYTES_PER_ELEMENT);
    new Uint32Array(limits.view.buffer)[0] = count; // the second, of other files, stays as it is: 0
    this.#calls.register(SYS_REGISTER, this.#ring.fd, REGISTER_IOWQ_MAX_WORKERS, pointerTo(limits.address), 2);
  }

  /** The file's index among the registered ones, or undefined if there is no more room. */
  registerFile(fd: number): number | undefined {
    const index = this.#freeFiles.pop();
    if (index === undefined) return undefined;
    if (this.#setFile(index, fd)) return index;
    this.#freeFiles.push(index);
    return undefined;
  }

  /** The file must have no operation in flight. */
  unregisterFile(index: number): void {
    if (this.#setFile(index, NO_FILE)) this.#freeFiles.push(index);
  }

  [Symbol.dispose](): void {
    this.#ring[Symbol.dispose]();
    this.#scratch[Symbol.dispose]();
  }

  /** struct io_uring_files_update { u32 offset; u32 resv; u64 fds } of one descriptor. */
  #setFile(index: number, fd: number): boolean {
    using update = allocate(6 * Uint32Array.BYTES_PER_ELEMENT);
    const words = new Int32Array(update.view.buffer);
    words[0] = index;
    words[4] = fd;
    new BigUint64Array(update.view.buffer)[1] = BigInt(update.address + 4 * Uint32Array.BYTES_PER_ELEMENT);
    const pointer = pointerTo(update.address);
    return this.#calls.register(SYS_REGISTER, this.#ring.fd, REGISTER_FILES_UPDATE, pointer, 1) === 1;
  }

  #setTimeout(timeoutMs: number): void {
    const timeoutNs = Math.ceil(Math.min(timeoutMs, LONGEST_TIMEOUT_MS) * NS_PER_MS);
    this.#timeout[0] = timeoutNs / NS_PER_S;
    this.#timeout[2] = timeoutNs % NS_PER_S;
  }
}

/**
 * A set of file descriptors for poll(2), in memory that the call takes as it is: what a thread without io_uring sleeps
 * on.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { libc, pointerTo } from "./libc.ts";
import { allocate, type NativeMemory } from "./memory.ts";

const POLLIN = 1;
const LONGEST_TIMEOUT_MS = 0x7FFF_FFFF;

/** poll(2) takes an int of milliseconds: round up, so that a wait is never cut to a busy loop. */
function wholeTimeout(timeoutMs: number): number {
  return timeoutMs < 0 ? -1 : Math.min(Math.ceil(timeoutMs), LONGEST_TIMEOUT_MS);
}

/** A struct pollfd array in mmapped memory: int fd, short events, short revents. */
export class PollSet implements Disposable {
  readonly #libc = libc();
  #memory: NativeMemory;
  #fds: Int32Array;
  #halfwords: Int16Array;
  #count = 0;
  #countArgument = 0n;
  #pointer: Deno.PointerObject;

  constructor() {
    this.#memory = allocate(PAGE_BYTES);
    this.#fds = new Int32Array(this.#memory.view.buffer);
    this.#halfwords = new Int16Array(this.#memory.view.buffer);
    this.#pointer = pointerTo(this.#memory.address);
  }

  add(fd: number): void {
    if (2 * this.#count === this.#fds.length) this.#grow();
    this.#fds[2 * this.#count] = fd;
    this.#fds[2 * this.#count + 1] = POLLIN;
    this.#setCount(this.#count + 1);
  }

  /** Does nothing if `fd` is not in the set. */
  remove(fd: number): void {
    for (let index = 0; index < this.#count; index++) {
      if (this.#fds[2 * index] !== fd) continue;
      this.#fds.copyWithin(2 * index, 2 * index + 2, 2 * this.#count);
      this.#setCount(this.#count - 1);
      return;
    }
  }

  /** Waits on this thread, without a timeout if `timeoutMs` is -1. A return by a signal looks like a timeout. */
  wait(timeoutMs: number): void {
    if (this.#libc.poll(this.#pointer, this.#countArgument, wholeTimeout(timeoutMs)) < 0) this.#forget();
  }

  /** Waits on a thread of Deno's pool. The set must not change meanwhile. */
  async waitOnPool(timeoutMs: number): Promise<void> {
    const ready = await this.#libc.pollOnPool(this.#pointer, this.#countArgument, wholeTimeout(timeoutMs));
    if (ready < 0) this.#forget();
  }

  /** Whether the last wait found the descriptor added as number `index` readable, broken or closed. */
  isReady(index: number): boolean {
    return this.#halfwords[4 * index + 3] !== 0;
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }

  #setCount(count: number): void {
    this.#count = count;
    this.#countArgument = BigInt(count);
  }

  /** A failed poll(2) leaves the results of the one before. */
  #forget(): void {
    for (let index = 0; index < this.#count; index++) this.#halfwords[4 * index + 3] = 0;
  }

  #grow(): void {
    const larger = allocate(2 * this.#memory.view.length);
    larger.view.set(this.#memory.view);
    this.#memory[Symbol.dispose]();
    this.#memory = larger;
    this.#fds = new Int32Array(larger.view.buffer);
    this.#halfwords = new Int16Array(larger.view.buffer);
    this.#pointer = pointerTo(larger.address);
  }
}

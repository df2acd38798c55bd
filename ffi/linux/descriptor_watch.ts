/**
 * Descriptors that the main thread waits for, without a thread for each: at most one poll(2) is out on a thread of Deno's
 * pool, on all of them and on an eventfd that ends it when their set changes.
 */

import { createEventfd, lowerEventfd, raiseEventfd } from "./eventfd.ts";
import { lazily } from "./library.ts";
import { libc } from "./libc.ts";
import { PollSet } from "./poll.ts";

/** Calls back when descriptors become readable, broken or closed. While it has any, it keeps the process alive. */
export class DescriptorWatch {
  readonly #watched = new Map<number, () => void>();
  /** Ends the outstanding poll. Undefined: nothing is watched. */
  #control: number | undefined;
  #running: Promise<void> = Promise.resolve();

  /**
   * Calls `ready`, in turns of the event loop, as long as the descriptor is readable, until the result is disposed, which
   * must be before the descriptor is closed. Throws an Error when the process may open no more files.
   */
  watch(fd: number, ready: () => void): Disposable {
    this.#watched.set(fd, ready);
    if (this.#control === undefined) {
      this.#control = createEventfd();
      this.#running = this.#run(this.#control);
    } else raiseEventfd(this.#control);
    return {
      [Symbol.dispose]: (): void => {
        if (this.#watched.get(fd) !== ready) return;
        this.#watched.delete(fd);
        if (this.#control !== undefined) raiseEventfd(this.#control);
      },
    };
  }

  /** Resolves when no poll is out because nothing is watched any more; at once if something is. */
  async settled(): Promise<void> {
    if (this.#watched.size === 0) await this.#running;
  }

  async #run(control: number): Promise<void> {
    while (this.#watched.size > 0) {
      using polled = new PollSet();
      polled.add(control);
      const watched = [...this.#watched];
      for (const [fd] of watched) polled.add(fd);
      await polled.waitOnPool(-1);
      if (polled.isReady(0)) lowerEventfd(control);
      watched.forEach(([fd, ready], i) => {
        if (polled.isReady(i + 1) && this.#watched.get(fd) === ready) ready();
      });
    }
    this.#control = undefined;
    libc().close(control);
  }
}

/** The watch of this thread. */
export const descriptorWatch: () => DescriptorWatch = lazily(() => new DescriptorWatch());

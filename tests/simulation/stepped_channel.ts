/**
 * A channel to a simulated disk. Operations stay in flight until the simulation carries one of them out, in any order,
 * with the backend's own code for files. Checks that its user keeps the contract of IoChannel.
 */

import type { ChannelOptions, IoChannel } from "../../lib/storage/disk.ts";
import { type BlockFile, FileExecutor, OPERATION, type Operation } from "../../lib/storage/engine/executor.ts";
import { MemoryViews } from "../../lib/storage/engine/views.ts";
import type { Run } from "./run.ts";
import type { SimulatedFile } from "./simulated_file.ts";

/** A submitted operation. */
export interface UnderWay {
  readonly tag: number;
  readonly operation: Operation;
  readonly offsetBytes: number;
  readonly first: number;
  readonly count: number;
  /** Length of a discard. */
  readonly lengthBytes: number;
  /** When it was submitted: an event number of the run. */
  started: number;
}

/** Observes a channel. */
export interface ChannelObserver {
  /** An operation was submitted; `data` is the first vector of a write, else empty. */
  started(operation: UnderWay, data: Uint8Array): void;
  /** It was carried out. */
  executed(operation: UnderWay, result: number, channel: SteppedChannel): void;
  /** The backend has reaped a failed operation. */
  reapedFailure(operation: UnderWay, channel: SteppedChannel): void;
  /** The channel was closed. */
  closed(channel: SteppedChannel): void;
}

/** A write in flight of a killed process. */
export interface OrphanedWrite {
  readonly offsetBytes: number;
  readonly data: Uint8Array;
}

/** Parts of a {@linkcode SteppedChannel}. */
interface ChannelParts {
  readonly file: SimulatedFile;
  /** The file that the backend's code uses: `file` or a wrapper of it. */
  readonly calls: BlockFile;
  readonly observer: ChannelObserver;
  readonly run: Run;
}

const EMPTY = new Uint8Array(0);

/** An IoChannel whose operations the simulation carries out. */
export class SteppedChannel implements IoChannel {
  /** When it was opened: an event number of the run. */
  readonly opened: number;
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #run: Run;
  readonly #observer: ChannelObserver;
  readonly #options: ChannelOptions;
  readonly #views: MemoryViews;
  readonly #file: SimulatedFile;
  readonly #executor: FileExecutor;
  readonly #busy: Uint8Array;
  #queued: UnderWay[] = [];
  readonly #underWay: UnderWay[] = [];
  #done: { readonly operation: UnderWay; readonly result: number }[] = [];
  #closed = false;

  constructor({ file, calls, observer, run }: ChannelParts, options: ChannelOptions) {
    this.#run = run;
    this.opened = run.tick();
    this.#observer = observer;
    this.#options = options;
    this.#views = new MemoryViews(options.memory, options.buffers);
    this.#file = file;
    this.#executor = new FileExecutor(calls);
    this.tags = new Uint32Array(options.depth);
    this.results = new Int32Array(options.depth);
    this.#busy = new Uint8Array(options.depth);
  }

  get inFlight(): number {
    return this.#queued.length + this.#underWay.length + this.#done.length;
  }

  /** Number of operations that can be carried out. */
  get underWay(): number {
    return this.#underWay.length;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#add({ tag, operation: OPERATION.read, offsetBytes, first, count, lengthBytes: 0, started: 0 });
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#add({ tag, operation: OPERATION.write, offsetBytes, first, count, lengthBytes: 0, started: 0 });
  }

  flush(tag: number): void {
    this.#add({ tag, operation: OPERATION.flush, offsetBytes: 0, first: 0, count: 0, lengthBytes: 0, started: 0 });
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, _secure: boolean): void {
    this.#add({ tag, operation: OPERATION.discard, offsetBytes, first: 0, count: 0, lengthBytes, started: 0 });
  }

  submit(): void {
    const queued = this.#queued;
    if (queued.length === 0) return;
    this.#queued = [];
    for (const operation of queued) {
      operation.started = this.#run.tick();
      this.#run.note("start", operation.operation, operation.tag, operation.offsetBytes);
      this.#underWay.push(operation);
      this.#observer.started(operation, operation.operation === OPERATION.write ? this.#beginning(operation) : EMPTY);
    }
  }

  /** Carries out one of the operations in flight. */
  carryOut(index: number): void {
    const [operation] = this.#underWay.splice(index, 1);
    const { operation: kind, tag } = operation!;
    const result = this.#execute(operation!);
    this.#run.tick();
    this.#run.note("done", kind, tag, result);
    // Completions are reaped in any order, but a flush never before operations that were carried out earlier.
    const ahead = kind === OPERATION.flush ? this.#done.length : this.#run.decisions.below(this.#done.length + 1);
    this.#done.splice(ahead, 0, { operation: operation!, result });
    this.#observer.executed(operation!, result, this);
  }

  /**
   * The process was killed. Returns the writes and discards in flight, which the kernel finishes with the data as it is
   * now. Reads are dropped.
   */
  orphan(): OrphanedWrite[] {
    this.#queued = [];
    this.#done = [];
    this.#closed = true;
    return this.#underWay.splice(0).flatMap(({ operation, offsetBytes, first, count, lengthBytes }) => {
      if (operation === OPERATION.discard) return [{ offsetBytes, data: new Uint8Array(lengthBytes) }];
      if (operation !== OPERATION.write) return [];
      const { addresses, lengths } = this.#options.vectors;
      const parts: Uint8Array[] = [];
      for (let i = first; i < first + count; i++) parts.push(this.#views.view(addresses[i]!, lengths[i]!));
      return [{ offsetBytes, data: joined(parts) }];
    });
  }

  reap(): number {
    const done = this.#done;
    if (done.length === 0) return 0;
    this.#done = [];
    done.forEach(({ operation, result }, i) => {
      this.#busy[operation.tag] = 0;
      this.tags[i] = operation.tag;
      this.results[i] = result;
      if (result < 0) this.#observer.reapedFailure(operation, this);
    });
    return done.length;
  }

  [Symbol.dispose](): void {
    this.#run.require(
      this.inFlight === 0,
      `a channel to ${this.#file.name} was closed with ${this.inFlight} in flight`,
    );
    this.#run.require(!this.#closed, `a channel to ${this.#file.name} was closed twice`);
    this.#closed = true;
    this.#observer.closed(this);
  }

  #execute({ operation, offsetBytes, first, count, lengthBytes }: UnderWay): number {
    if (operation === OPERATION.discard) return this.#file.discard(offsetBytes, lengthBytes);
    return this.#executor.execute(operation, offsetBytes, this.#options.vectors, first, count, this.#views);
  }

  #add(operation: UnderWay): void {
    const { tag } = operation;
    this.#run.require(!this.#closed, `an operation on a closed channel to ${this.#file.name}`);
    this.#run.require(tag < this.#options.depth, `tag ${tag} of a channel that is ${this.#options.depth} deep`);
    this.#run.require(this.#busy[tag] === 0, `tag ${tag} was used while it is in flight`);
    this.#busy[tag] = 1;
    this.#queued.push(operation);
  }

  #beginning({ first }: UnderWay): Uint8Array {
    const { addresses, lengths } = this.#options.vectors;
    return this.#views.view(addresses[first]!, lengths[first]!);
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * A disk in TypeScript as the control plane holds it: its shared memory, its channels and who has them, the process that
 * serves it now, and the one that takes its place.
 */

import { errorText, XenblkError } from "../../lib/errors.ts";
import { formatSize } from "../../lib/sizes.ts";
import type { DiskProperties, VolatileContent } from "../../lib/storage/disk.ts";
import { type PluginFacts, readFacts, sectorsOf } from "../../lib/storage/plugin/facts.ts";
import type { PluginOptions, PluginProcess } from "../../lib/storage/plugin/types.ts";
import { descriptorWatch } from "../linux/descriptor_watch.ts";
import { createEventfd, lowerEventfd, raiseEventfd } from "../linux/eventfd.ts";
import { libc } from "../linux/libc.ts";
import { viewOf } from "../linux/memory.ts";
import { SharedMemory } from "../linux/shared_memory.ts";
import { DeviceControl, PHASE } from "../vhost/control.ts";
import type { PluginAttachment } from "./attachment.ts";
import { RunningHost } from "./running_host.ts";
import { findConfig } from "./spawn.ts";
import { CHANNEL_BYTES, channelAt, HEADER_BYTES, MEMORY_BYTES, MOST_CHANNELS } from "./layout.ts";
import type { Command } from "./mailbox.ts";
import { PluginNotes } from "./notes.ts";

/** How long the plugin waits for things. */
export interface PluginPatience {
  /** For the import and the opening of the disk. */
  readonly startMs: number;
  /** For a reactor to notice that the process has ended. */
  readonly pauseMs: number;
  /** For the plugin's `close`. */
  readonly closeMs: number;
}

/** Milliseconds between the first two looks at what channels do, and at most. */
const POLL_MS = 2;
const LONGEST_POLL_MS = 250;

const CHANNEL_MODULE = new URL("./channel.ts", import.meta.url).href;

/** Shared with the process, and the same for all processes of the disk. */
interface Shared {
  readonly memory: SharedMemory;
  readonly bellFd: number;
  readonly newsFd: number;
  readonly callFds: readonly number[];
  /** Called when the process has answered, or a channel accuses it. */
  news: () => void;
}

/** A disk with a process. */
export class NativePluginProcess implements PluginProcess {
  readonly #options: PluginOptions;
  readonly #patience: PluginPatience;
  readonly #shared: Shared;
  readonly #words = DeviceControl.allocate(MOST_CHANNELS);
  readonly #control = new DeviceControl(this.#words);
  readonly #noteWords = PluginNotes.allocate(MOST_CHANNELS);
  readonly #notes = new PluginNotes(this.#noteWords);
  readonly #owned: DisposableStack;
  /** By channel: when it was given away last, as a count. */
  readonly #given = new Array<number>(MOST_CHANNELS).fill(0);
  #gifts = 0;
  #host: RunningHost;
  #facts: PluginFacts;
  #lost: Promise<string>;
  #closed: Promise<void> | undefined;

  /** Starts the first process. Rejects with {@linkcode XenblkError}. */
  static async open(options: PluginOptions, patience: PluginPatience): Promise<NativePluginProcess> {
    await using undo = new AsyncDisposableStack();
    undo.defer(() => descriptorWatch().settled());
    const owned = undo.use(new DisposableStack());
    const shared = share(options.name, owned);
    const host = undo.use(await startHost(options, shared, 1));
    shared.news = () => host.look();
    const facts = await opened(host, options, patience, options.signal);
    undo.move();
    return new NativePluginProcess({ options, patience, shared, owned, host, facts });
  }

  private constructor(parts: {
    readonly options: PluginOptions;
    readonly patience: PluginPatience;
    readonly shared: Shared;
    readonly owned: DisposableStack;
    readonly host: RunningHost;
    readonly facts: PluginFacts;
  }) {
    this.#options = parts.options;
    this.#patience = parts.patience;
    this.#shared = parts.shared;
    this.#owned = parts.owned;
    this.#host = parts.host;
    this.#facts = parts.facts;
    parts.shared.news = () => this.#news();
    this.#control.serve(1);
    this.#lost = this.#watch(parts.host);
  }

  get properties(): DiskProperties {
    return { ...this.#facts.properties, mostChannels: MOST_CHANNELS };
  }

  get loses(): VolatileContent["loses"] | undefined {
    const { survivesCrash, flushes } = this.#facts;
    return survivesCrash ? undefined : flushes ? "unflushed" : "all";
  }

  get pid(): number {
    return this.#host.pid;
  }

  get lost(): Promise<string> {
    return this.#lost;
  }

  attachment(_lane: number): Promise<PluginAttachment> {
    const { properties: { readOnly, discard }, flushes, survivesCrash } = this.#facts;
    const { settings: { requestTimeoutMs, onTrouble }, name } = this.#options;
    const { memory, bellFd, newsFd, callFds } = this.#shared;
    const channel = this.#freeChannel();
    if (this.#closed !== undefined || channel < 0) {
      const why = channel < 0 ? `all of its ${MOST_CHANNELS} channels are used` : "it is closed";
      return Promise.reject(new XenblkError(`Cannot use ${name}: ${why}`));
    }
    // Of a channel that was used before: its data, and its rings.
    if (this.#given[channel] !== 0) memory.release(channelAt(channel), CHANNEL_BYTES);
    this.#given[channel] = ++this.#gifts;
    return Promise.resolve({
      module: CHANNEL_MODULE,
      name,
      control: this.#words,
      notes: this.#noteWords,
      channel,
      lease: this.#control.give(channel),
      address: memory.address,
      bellFd,
      callFd: callFds[channel]!,
      newsFd,
      flushes,
      losesWrites: !survivesCrash,
      readOnly,
      discards: discard !== undefined,
      requestTimeoutMs,
      failsWhenLost: onTrouble === "fail",
    });
  }

  async refresh(sizeBytes?: number): Promise<void> {
    const { name, log } = this.#options;
    const answer = await this.#ask({ do: "size", ...(sizeBytes === undefined ? {} : { sizeBytes }) });
    const { properties } = this.#facts;
    const size = "sizeBytes" in answer ? answer.sizeBytes : undefined;
    const sectors = sectorsOf(size, properties.logicalSectorBytes, name, (text) => log.warning(text));
    if (sectors < properties.sectors) throw shrunk(name, properties.sectors, sectors);
    this.#facts = { ...this.#facts, properties: { ...properties, sectors } };
  }

  async unflushed(): Promise<boolean> {
    this.#wakeAll();
    const deadlineMs = performance.now() + this.#patience.pauseMs;
    while (this.#channels().some((each) => this.#control.isUsed(each) && !this.#control.isPaused(each))) {
      if (performance.now() >= deadlineMs) {
        throw new XenblkError(`Cannot serve ${this.#options.name} again: a reactor has not noticed its end yet`);
      }
      await delay(POLL_MS);
    }
    return this.#notes.isUnflushed;
  }

  async restart(signal?: AbortSignal): Promise<void> {
    if (this.#control.phase !== PHASE.lost) {
      throw new XenblkError(`Cannot serve ${this.#options.name} again: its process has not ended`);
    }
    this.#notes.takeAccusation(); // of the process before; it would end the next one
    const epoch = this.#control.epoch + 1;
    await using undo = new AsyncDisposableStack();
    const host = undo.use(await startHost(this.#options, this.#shared, epoch));
    this.#host = host;
    const facts = await opened(host, this.#options, this.#patience, signal);
    mustFit(this.#options.name, this.#facts, facts);
    signal?.throwIfAborted();
    undo.move();
    this.#facts = facts;
    this.#control.serve(epoch);
    this.#lost = this.#watch(host);
    this.#wakeAll();
  }

  fail(): void {
    this.#control.fail();
    this.#wakeAll();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#closed ??= this.#close();
  }

  /** The process has answered, or a channel accuses it. */
  #news(): void {
    this.#host.look();
    if (this.#notes.isAccused) this.#host.kill();
  }

  /** Resolves when the process has ended. From then on channels wait or fail. */
  async #watch(host: RunningHost): Promise<string> {
    const reason = await host.ended;
    this.#control.lose();
    this.#wakeAll();
    if (this.#closed !== undefined) this.fail(); // nobody will start another one
    return `its process is lost: ${this.#notes.takeAccusation() ?? reason}`;
  }

  async #ask(command: Command): Promise<object> {
    const { name, settings: { requestTimeoutMs } } = this.#options;
    return await this.#host.ask(command, requestTimeoutMs).catch((error) => {
      throw new XenblkError(`Cannot ${command.do === "size" ? "resize" : command.do} ${name}: ${errorText(error)}`, {
        cause: error,
      });
    });
  }

  /** If all were given away, the one that has not been opened for longest is taken back: nobody wants it any more. */
  #freeChannel(): number {
    const isFree = (channel: number): boolean => this.#control.isClosed(channel);
    if (!this.#channels().some(isFree)) {
      const byAge = this.#channels().sort((one, other) => this.#given[one]! - this.#given[other]!);
      byAge.some((channel) => this.#control.withdraw(channel));
    }
    return this.#channels().findIndex(isFree);
  }

  #channels(): number[] {
    return [...this.#given.keys()];
  }

  #wakeAll(): void {
    for (const fd of this.#shared.callFds) raiseEventfd(fd);
  }

  async #close(): Promise<void> {
    if (this.#control.phase === PHASE.lost) this.fail();
    for (const channel of this.#channels()) this.#control.withdraw(channel);
    const anyUsed = (): boolean => this.#channels().some((channel) => this.#control.isUsed(channel));
    for (let pollMs = POLL_MS; anyUsed(); pollMs = Math.min(2 * pollMs, LONGEST_POLL_MS)) await delay(pollMs);
    const { name, log } = this.#options;
    try {
      if (await this.#host.close(this.#patience.closeMs)) this.#notes.flushed(this.#notes.written);
    } catch (error) {
      log.warning(`${name}: its close failed: ${errorText(error)}`);
    }
    await this.#host[Symbol.asyncDispose]();
    this.#owned.dispose();
    await descriptorWatch().settled();
    if (this.loses !== undefined && this.#notes.isUnflushed) {
      throw new XenblkError(`Cannot close ${name} in order: writes that it had answered may be lost`, {
        remedy: "attach it anew, and check its content",
      });
    }
  }
}

function share(name: string, owned: DisposableStack): Shared {
  try {
    const eventfd = (): number => owned.adopt(createEventfd(), (fd) => void libc().close(fd));
    const shared: Shared = {
      memory: owned.use(new SharedMemory("xenblk-plugin", MEMORY_BYTES)),
      bellFd: eventfd(),
      newsFd: eventfd(),
      callFds: Array.from({ length: MOST_CHANNELS }, eventfd),
      news: () => {},
    };
    const { newsFd } = shared;
    owned.use(
      descriptorWatch().watch(newsFd, () => {
        lowerEventfd(newsFd);
        shared.news();
      }),
    );
    return shared;
  } catch (error) {
    throw new XenblkError(`Cannot open ${name}: ${errorText(error)}`, { cause: error });
  }
}

/** The process begins with zeroed words. */
async function startHost(options: PluginOptions, shared: Shared, epoch: number): Promise<RunningHost> {
  const config = await findConfig(options);
  const { memory, bellFd, newsFd, callFds } = shared;
  const header = viewOf(memory.address, HEADER_BYTES);
  header.fill(0);
  return new RunningHost(options, header.buffer, { memoryFd: memory.fd, bellFd, newsFd, callFds, epoch }, config);
}

/** Waits for the disk, and kills a process that has none. Rejects with XenblkError. */
async function opened(
  host: RunningHost,
  { name, readOnly, log }: PluginOptions,
  { startMs }: PluginPatience,
  signal: AbortSignal | undefined,
): Promise<PluginFacts> {
  let answer: unknown;
  try {
    answer = await host.answer(startMs, signal);
  } catch (error) {
    signal?.throwIfAborted();
    throw new XenblkError(`Cannot open ${name}: ${errorText(error)}`, { cause: error });
  }
  const facts = readFacts(answer, name, readOnly, (text) => log.warning(text));
  host.beginBeat();
  return facts;
}

/** What channels were opened with must hold for the next process, too. Throws XenblkError. */
function mustFit(name: string, before: PluginFacts, after: PluginFacts): void {
  const kept = ({ properties: { sectors: _, ...properties }, ...facts }: PluginFacts): string =>
    JSON.stringify([properties, facts]);
  if (kept(before) !== kept(after)) {
    throw new XenblkError(`Cannot serve ${name} again: it opens with other properties or methods than before`, {
      remedy: "have its module open it as before, or detach the disk and attach it anew",
    });
  }
  const { sectors } = before.properties;
  if (after.properties.sectors < sectors) throw shrunk(name, sectors, after.properties.sectors);
}

function shrunk(name: string, before: number, after: number): XenblkError {
  return new XenblkError(
    `Cannot shrink ${name} under its guest: it has ${formatSize(after * 512)}, the disk ${formatSize(before * 512)}`,
    { remedy: "make it as large as before, or detach the disk and attach it anew" },
  );
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * The entry of a reactor's Worker: opens the platform that its first message names, runs one Reactor, and gives the
 * Worker's event loop a turn only while there are commands that were not yet carried out.
 */

/// <reference lib="deno.worker" />

import { errorText, XenblkError } from "../errors.ts";
import type { Parker, Platform, Refusal } from "../hypervisor.ts";
import { eventLoopTurn, openPlatform } from "../modules.ts";
import { DiskModules } from "../storage/channel.ts";
import type { DiskAttachment } from "../storage/disk.ts";
import {
  CONTROL_POSTED,
  OPEN_BEGUN,
  OPEN_WAITING,
  type OpenCommand,
  type ReactorCommand,
  type ReactorEvent,
  type StartMessage,
} from "./messages.ts";
import { Reactor } from "./reactor.ts";
import { ReactorLoadMeter } from "./reactor_load.ts";

const post = (event: ReactorEvent): void => self.postMessage(event);

/** Looking for requests longer than it takes to be woken does not pay. */
const MOST_POLL_MS = 0.02;

/** Why there is no io_uring where none was asked for. */
const NOT_ASKED: Refusal = { reason: "its reactors go without", remedy: "see `xenblk doctor`" };

/** How long the event loop is given while modules load and there is nothing else to do: it need not spin. */
const LOADING_TURN_MS = 1;

self.onmessage = async ({ data }: MessageEvent<StartMessage>): Promise<void> => {
  let platform: Platform;
  let parker: Parker;
  try {
    platform = await openPlatform(data.platform);
    parker = platform.openParker(data.token, { withIo: data.uring });
  } catch (error) {
    const remedy = error instanceof XenblkError ? error.remedy : undefined;
    post({ type: "unavailable", reason: error instanceof Error ? error.message : String(error), remedy });
    return;
  }
  await run(platform, parker, data);
  post({ type: "exited" });
};

async function run(platform: Platform, parkerOfRun: Parker, { token, control, load }: StartMessage): Promise<void> {
  using parker = parkerOfRun;
  const modules = new DiskModules({ platform, parker, token });
  const host = {
    closed: (id: number): void => post({ type: "closed", id }),
    released: (id: number): void => post({ type: "released", id }),
    stopped: (id: number, reason: string): void => post({ type: "stopped", id, reason }),
    latched: (id: number): void => post({ type: "latched", id }),
    warn: (message: string): void => post({ type: "warning", message }),
    debug: (message: string): void => post({ type: "debug", message }),
  };
  const openChannel = modules.openChannel.bind(modules);
  const openMemory = modules.openMemory.bind(modules);
  using reactor = new Reactor(platform, parker, host, { openChannel, openMemory, mostPollMs: MOST_POLL_MS });
  const commands = new Commands(reactor, modules);
  self.onmessage = ({ data }: MessageEvent<ReactorCommand>): void => commands.take(data);
  const uringRefusal = parker.submit === undefined ? parker.refusal ?? NOT_ASKED : undefined;
  post({ type: "ready", uringRefusal, thread: platform.threads?.current() });
  const posted = new Int32Array(control);
  const meter = new ReactorLoadMeter(load, platform);
  while (!commands.exiting) {
    const busy = reactor.turn();
    const count = Atomics.load(posted, CONTROL_POSTED);
    if (count !== commands.handled) {
      await eventLoopTurn(!busy && commands.onlyLoads(count) ? LOADING_TURN_MS : 0);
      reactor.waited();
    } else if (!busy) {
      meter.sleeps();
      reactor.sleep(-1);
      meter.wakes();
    }
  }
}

type PrepareCommand = Extract<ReactorCommand, { readonly type: "prepare" }>;

/** Carries out the control plane's commands. An open that has to load modules first is carried out when they are there. */
class Commands {
  exiting = false;
  /** Commands carried out so far, modulo 2^32. */
  handled = 0;
  /** Commands that wait for modules. */
  #loading = 0;
  readonly #reactor: Reactor;
  readonly #modules: DiskModules;

  constructor(reactor: Reactor, modules: DiskModules) {
    this.#reactor = reactor;
    this.#modules = modules;
  }

  /** All of so many posted commands were carried out, apart from opens that wait for their modules. */
  onlyLoads(posted: number): boolean {
    return ((posted - this.handled) | 0) === this.#loading;
  }

  take(command: ReactorCommand): void {
    if (command.type === "open" && !this.#isLoaded(command.request.attachment)) void this.#openLater(command);
    else if (command.type === "prepare") void this.#prepare(command);
    else this.#handle(command);
  }

  /** An attachment that makes no sense is not: loading it reports why. */
  #isLoaded(attachment: DiskAttachment): boolean {
    try {
      return this.#modules.has(attachment);
    } catch {
      return false;
    }
  }

  async #openLater(command: OpenCommand): Promise<void> {
    const failure = await this.#load(command.request.attachment);
    if (failure === undefined) return this.#handle(command);
    this.handled = (this.handled + 1) | 0;
    post({ type: "refused", id: command.id, reason: failure });
  }

  async #prepare({ id, attachment }: PrepareCommand): Promise<void> {
    const refusal = this.#isLoaded(attachment) ? undefined : await this.#load(attachment);
    this.handled = (this.handled + 1) | 0;
    post({ type: "prepared", id, refusal });
  }

  /** Meanwhile the other rings are served, and the event loop gets its turns, in which modules load. Why it failed. */
  async #load(attachment: DiskAttachment): Promise<string | undefined> {
    this.#loading++;
    const failure = await this.#modules.load(attachment).then(() => undefined, errorText);
    this.#loading--;
    return failure;
  }

  #handle(command: Exclude<ReactorCommand, PrepareCommand>): void {
    this.handled = (this.handled + 1) | 0;
    switch (command.type) {
      case "open":
        return this.#open(command);
      case "release":
        return this.#reactor.release(command.id, command.flush) ? undefined : post({ type: "kept", id: command.id });
      case "begin":
        return void this.#reactor.keep(command.id);
      case "keep":
        return this.#reactor.keep(command.id) ? post({ type: "kept", id: command.id }) : undefined;
      case "grow":
        this.#reactor.grow(command.id, command.sectors);
        return post({ type: "grown", id: command.id });
      case "close":
        return this.#reactor.close(command.id);
      case "ping":
        return post({ type: "alive" });
      case "exit":
        this.exiting = true;
    }
  }

  #open({ id, request, begun }: OpenCommand): void {
    // An abandoned one was answered already.
    if (Atomics.compareExchange(new Int32Array(begun), 0, OPEN_WAITING, OPEN_BEGUN) !== OPEN_WAITING) return;
    try {
      this.#reactor.open(id, request);
      post({ type: "opened", id });
    } catch (error) {
      post({ type: "refused", id, reason: errorText(error) });
    }
  }
}

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
import { CONTROL_POSTED, type ReactorCommand, type ReactorEvent, type StartMessage } from "./messages.ts";
import { Reactor } from "./reactor.ts";

const post = (event: ReactorEvent): void => self.postMessage(event);

/** Looking for requests longer than it takes to be woken does not pay. */
const MOST_POLL_MS = 0.02;

/** Why there is no io_uring where none was asked for. */
const NOT_ASKED: Refusal = { reason: "its reactors go without", remedy: "see `xenblk doctor`" };

const CLOSED_EARLY = "the queue was closed before the modules of its disk were loaded";

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

async function run(platform: Platform, parkerOfRun: Parker, { token, control }: StartMessage): Promise<void> {
  using parker = parkerOfRun;
  const modules = new DiskModules({ platform, parker, token });
  const host = {
    closed: (id: number): void => post({ type: "closed", id }),
    stopped: (id: number, reason: string): void => post({ type: "stopped", id, reason }),
    latched: (id: number): void => post({ type: "latched", id }),
    warn: (message: string): void => post({ type: "warning", message }),
    debug: (message: string): void => post({ type: "debug", message }),
  };
  const openChannel = modules.openChannel.bind(modules);
  using reactor = new Reactor(platform, parker, host, { openChannel, mostPollMs: MOST_POLL_MS });
  const commands = new Commands(reactor, modules);
  self.onmessage = ({ data }: MessageEvent<ReactorCommand>): void => commands.take(data);
  post({ type: "ready", uringRefusal: parker.submit === undefined ? parker.refusal ?? NOT_ASKED : undefined });
  const posted = new Int32Array(control);
  while (!commands.exiting) {
    const busy = reactor.turn();
    if (Atomics.load(posted, CONTROL_POSTED) !== commands.handled) await eventLoopTurn();
    else if (!busy) reactor.sleep(-1);
  }
}

/** Carries out the control plane's commands. An open that has to load modules first is carried out when they are there. */
class Commands {
  exiting = false;
  /** Commands carried out so far, modulo 2^32. */
  handled = 0;
  readonly #reactor: Reactor;
  readonly #modules: DiskModules;
  /** Queues whose modules are being loaded. */
  readonly #loading = new Set<number>();

  constructor(reactor: Reactor, modules: DiskModules) {
    this.#reactor = reactor;
    this.#modules = modules;
  }

  take(command: ReactorCommand): void {
    if (command.type === "open" && !this.#isLoaded(command.request.attachment)) void this.#load(command);
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

  /** Meanwhile the other rings are served, and the event loop gets its turns, in which modules load. */
  async #load(command: ReactorCommand & { type: "open" }): Promise<void> {
    const { id, request } = command;
    this.#loading.add(id);
    const failure = await this.#modules.load(request.attachment).then(() => undefined, errorText);
    const wanted = this.#loading.delete(id);
    if (wanted && failure === undefined) return this.#handle(command);
    this.handled = (this.handled + 1) | 0;
    if (wanted) post({ type: "refused", id, reason: failure! });
  }

  #handle(command: ReactorCommand): void {
    this.handled = (this.handled + 1) | 0;
    switch (command.type) {
      case "open":
        return this.#open(command);
      case "grow":
        this.#reactor.grow(command.id, command.sectors);
        return post({ type: "grown", id: command.id });
      case "abandon":
        return this.#abandon(command.id);
      case "close":
        this.#abandon(command.id);
        return this.#reactor.close(command.id);
      case "exit":
        this.exiting = true;
    }
  }

  #abandon(id: number): void {
    if (this.#loading.delete(id)) post({ type: "refused", id, reason: CLOSED_EARLY });
  }

  #open({ id, request }: ReactorCommand & { type: "open" }): void {
    try {
      this.#reactor.open(id, request);
      post({ type: "opened", id });
    } catch (error) {
      post({ type: "refused", id, reason: errorText(error) });
    }
  }
}

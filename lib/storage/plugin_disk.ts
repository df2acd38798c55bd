/**
 * Disks in TypeScript: starts the process of a plugin, and another one when it has ended, so that the guest's requests go
 * on. If that cannot be done without losing answered writes, or for too long, the disk fails for good.
 */

import type { Clock } from "../clock.ts";
import { errorText } from "../errors.ts";
import type { Logger } from "../log.ts";
import { lookWithin, NoAnswerError } from "../path_lookup.ts";
import { formatSize } from "../sizes.ts";
import { SECTOR_BYTES } from "../units.ts";
import type { Disk, DiskAttachment, DiskFile, DiskProperties, DiskRequest, VolatileContent } from "./disk.ts";
import { findModule } from "./image/plugin_name.ts";
import { imageLabel } from "./image/spec.ts";
import type { PluginSettings } from "./plugin/settings.ts";
import type { PluginClient, PluginProcess } from "./plugin/types.ts";

/** How long another process is tried for before the disk is given up. */
const PATIENCE_MS = 60_000;
/** The waits in between. */
const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = 5_000;
/** After a process that has run so long, the next one is started at once. */
const WELL_MS = 10_000;

/** What runs disks in TypeScript. */
export interface PluginServices {
  /** Starts their processes. */
  readonly plugins: PluginClient;
  /** How the processes are run. */
  readonly settings: PluginSettings;
  /** For the waits between two processes. */
  readonly clock: Clock;
  /** Gets what plugins log and print, and what happens to their processes. */
  readonly log: Logger;
}

/** Opens a disk in TypeScript. Rejects with {@linkcode XenblkError}; nothing then stays open. */
export async function openPluginDisk(request: DiskRequest, services: PluginServices): Promise<Disk> {
  const { plugins, settings, log } = services;
  const { module, argument: target } = await findModule(request.target);
  const name = `image ${imageLabel(request)}`;
  const content = await contentOf(module);
  const process = await plugins.start({ name, module, target, readOnly: request.readOnly, settings, log });
  return new PluginDisk(process, services, { name, label: imageLabel(request), module, content });
}

/** What a disk is called, and what its module was when it was opened. */
interface DiskFacts {
  readonly name: string;
  readonly label: string;
  readonly module: string;
  readonly content: string;
}

/** A disk, whichever process serves it. */
class PluginDisk implements Disk {
  readonly failed: Promise<string>;
  readonly files: readonly DiskFile[] = [];
  readonly volatile?: VolatileContent;
  readonly #process: PluginProcess;
  readonly #services: PluginServices;
  readonly #facts: DiskFacts;
  readonly #fail: (reason: string) => void;
  readonly #closing = Promise.withResolvers<undefined>();
  /** Ends a wait, or a start, when the disk is closed or has failed. */
  readonly #ending = new AbortController();
  readonly #listeners = new Set<() => void>();
  readonly #watching: Promise<void>;
  #trouble: string | undefined;
  #hasFailed = false;
  #closed: Promise<void> | undefined;

  constructor(process: PluginProcess, services: PluginServices, facts: DiskFacts) {
    this.#process = process;
    this.#services = services;
    this.#facts = facts;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.failed = promise;
    this.#fail = resolve;
    const { loses } = process;
    if (loses !== undefined) this.volatile = { loses, giveUp: (reason) => void this.#giveUp(reason) };
    this.#watching = this.#watch();
  }

  get properties(): DiskProperties {
    return this.#process.properties;
  }

  get description(): string {
    const { sectors, readOnly } = this.properties;
    const access = readOnly ? "read-only, " : "";
    return `${this.#facts.label} (${formatSize(sectors * SECTOR_BYTES)}, ${access}process ${this.#process.pid})`;
  }

  get trouble(): string | undefined {
    return this.#trouble;
  }

  watchTrouble(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  grow(sizeBytes?: number): Promise<void> {
    return this.#process.refresh(sizeBytes);
  }

  attachment(lane: number): Promise<DiskAttachment> {
    return this.#process.attachment(lane);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#closed ??= this.#close();
  }

  async #close(): Promise<void> {
    this.#closing.resolve(undefined);
    this.#ending.abort();
    await this.#watching;
    await Promise.resolve(this.#process[Symbol.asyncDispose]()).catch((error) => {
      if (!this.#hasFailed) throw error; // it is known already
    });
  }

  /** Until the disk is closed or fails. */
  async #watch(): Promise<void> {
    const { clock } = this.#services;
    let waitMs = FIRST_WAIT_MS;
    for (let sinceMs = -Infinity;; sinceMs = clock.now()) {
      const reason = await Promise.race([this.#process.lost, this.#closing.promise]);
      if (reason === undefined || this.#hasFailed) return;
      if (clock.now() - sinceMs >= WELL_MS) waitMs = FIRST_WAIT_MS;
      const next = await this.#recover(reason, waitMs);
      if (next === undefined) return;
      waitMs = next;
    }
  }

  /** Starts another process. Resolves with the next wait, if it ends soon again; undefined: the disk failed or is closed. */
  async #recover(reason: string, firstWaitMs: number): Promise<number | undefined> {
    const { clock, log, settings: { onTrouble } } = this.#services;
    const { name } = this.#facts;
    const lostMs = clock.now();
    const does = onTrouble === "hold"
      ? "its requests wait for another process"
      : "its requests fail until another runs";
    this.#setTrouble(`Cannot carry out requests on ${name}: ${reason}; ${does}`);
    let said = "";
    for (let waitMs = firstWaitMs; !this.#ending.signal.aborted; waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS)) {
      await clock.sleep(waitMs, this.#ending.signal);
      try {
        if (await this.#process.unflushed()) return this.#giveUp(`${reason}, with writes that it had not flushed`);
        await this.#warnOfChange();
        this.#ending.signal.throwIfAborted();
        await this.#process.restart(this.#ending.signal);
        log.warning(
          `${name}: served again after ${Math.round(clock.now() - lostMs)} ms, by process ${this.#process.pid}`,
        );
        this.#setTrouble(undefined);
        return Math.min(2 * waitMs, LONGEST_WAIT_MS);
      } catch (error) {
        if (this.#ending.signal.aborted) break;
        const text = errorText(error);
        if (clock.now() - lostMs > PATIENCE_MS) return this.#giveUp(`${reason}; and no other serves it: ${text}`);
        if (text !== said) log.warning(`${text}; trying again`);
        said = text;
      }
    }
    this.#process.fail();
    return undefined;
  }

  /** The next process imports the module as it is now. */
  async #warnOfChange(): Promise<void> {
    const { module, content, name } = this.#facts;
    const now = await contentOf(module).catch((error) => {
      // Starting a process would wait for that file system, too, and all other disks with it.
      if (error instanceof NoAnswerError) throw error;
      return content; // the process says what is wrong with it
    });
    if (now === content) return;
    this.#services.log.warning(
      `${name}: its module has changed since the disk was attached; the next process runs it as it is now`,
    );
  }

  #giveUp(reason: string): undefined {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    this.#ending.abort(); // a process that is being started would serve again
    this.#process.fail();
    this.#setTrouble(undefined);
    this.#fail(reason);
  }

  #setTrouble(text: string | undefined): void {
    if (text !== undefined) this.#services.log.warning(text);
    this.#trouble = text;
    for (const listener of this.#listeners) listener();
  }
}

/** A digest of the module's file. */
async function contentOf(path: string): Promise<string> {
  const bytes = await lookWithin(path, () => Deno.readFile(path));
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

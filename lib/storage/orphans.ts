/**
 * What is left of disks that were removed while neither their daemon nor a process of ours ran: what was answered and not
 * flushed is written to the image, then daemon and log go. What cannot be written now is kept and tried again; what never
 * can be is reported.
 */

import { errorText } from "../errors.ts";
import { type DaemonServices, writeLogAgain } from "./daemon_disk.ts";
import type { OrphanedDisk } from "./qemu/types.ts";
import { KeptLog } from "./write_log/kept_log.ts";
import type { LogContent } from "./write_log/log.ts";
import { writeLogName, writeLogOwner } from "./write_log/name.ts";

/** The waits before what could not be written is tried again. */
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;

const NOTHING: LogContent = { operations: 0, bytes: 0 };

/** The disks of this host that nobody opens any more. */
export class OrphanedDisks implements AsyncDisposable {
  readonly #services: DaemonServices;
  readonly #warn: (message: string) => void;
  readonly #ending = new AbortController();
  #pass: Promise<unknown> = Promise.resolve();
  /** The attempts that follow on a failure. */
  #retrying: Promise<void> | undefined;
  /** What was said of disks that wait. */
  readonly #said = new Map<string, string>();

  constructor(services: DaemonServices, warn: (message: string) => void) {
    this.#services = services;
    this.#warn = warn;
  }

  /**
   * Ends what is left of devices that are gone; `isGone` judges one by its label. Resolves with a line about each daemon
   * for the log. Rejects with {@linkcode XenblkError} if the run directory cannot be read.
   */
  async end(isGone: (device: string) => boolean): Promise<string[]> {
    const { lines, complete } = await this.#inTurn(isGone);
    if (!complete) this.#retrying ??= this.#retry(isGone);
    return lines;
  }

  /** Waits for an attempt that is being made, which its time limits end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort();
    await this.#retrying;
    await this.#pass.catch(() => {});
  }

  async #retry(isGone: (device: string) => boolean): Promise<void> {
    let said = "";
    const { signal } = this.#ending;
    for (let waitMs = FIRST_WAIT_MS; !signal.aborted; waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS)) {
      await this.#services.clock.sleep(waitMs, signal);
      try {
        if (signal.aborted) break;
        const { lines, complete } = await this.#inTurn(isGone);
        for (const line of lines) this.#warn(line);
        if (complete) break;
      } catch (error) {
        const text = errorText(error);
        if (text !== said) this.#warn(`cannot look for disks of devices that are gone: ${text}`);
        said = text;
      }
    }
    this.#retrying = undefined;
  }

  /** One pass after the other. */
  async #inTurn(isGone: (device: string) => boolean): Promise<{ lines: string[]; complete: boolean }> {
    const pass = this.#pass.then(() => this.#endOnce(isGone), () => this.#endOnce(isGone));
    this.#pass = pass;
    return await pass;
  }

  async #endOnce(isGone: (device: string) => boolean): Promise<{ lines: string[]; complete: boolean }> {
    const { daemons } = this.#services;
    const before = await daemons.orphans(isGone);
    const written = [];
    for (const disk of before) written.push(...await this.#see(disk));
    // A daemon that had to be killed leaves such disks, too.
    const lines = [...written, ...await daemons.sweep(isGone)];
    const left = await daemons.orphans(isGone);
    this.#removeLogs(isGone, left);
    return { lines, complete: left.length === 0 };
  }

  /** Logs of devices that are gone which no daemon has lost anything of. */
  #removeLogs(isGone: (device: string) => boolean, left: readonly OrphanedDisk[]): void {
    const { logs } = this.#services;
    for (const name of logs?.names() ?? []) {
      const device = writeLogOwner(name);
      if (device === undefined || !isGone(device) || left.some(({ owner }) => owner.device === device)) continue;
      try {
        using _unused = new KeptLog(logs!, name);
        logs!.remove(name);
      } catch {
        // its disk is still open
      }
    }
  }

  /** Returns what is to be logged. */
  async #see(disk: OrphanedDisk): Promise<string[]> {
    const { name, owner, reason, request, served } = disk;
    try {
      const content = this.#contentOf(disk);
      // Its daemon has nothing to flush, or nothing is kept to judge that by.
      if (served && (content ?? NOTHING).operations === 0) return [];
      if (content?.operations === 0) {
        await this.#services.daemons.forget(owner);
        return [];
      }
      const isKept = content !== undefined && request !== undefined;
      const failure = isKept ? await writeLogAgain(request, this.#services, this.#warn) : this.#lackOf(disk);
      if (failure !== undefined) {
        this.#warn(
          `${name}: ${this.#amount(content)} that ${owner.device} was answered are lost: ${reason}: ${failure}`,
        );
        await this.#services.daemons.forget(owner);
      }
      this.#said.delete(owner.device);
      return failure === undefined
        ? [`${name}: what ${owner.device}, which is gone, was answered is in it: closed`]
        : [];
    } catch (error) {
      this.#wait(disk, errorText(error));
      return [];
    }
  }

  #wait({ name, owner: { device } }: OrphanedDisk, why: string): void {
    if (this.#said.get(device) === why) return;
    this.#said.set(device, why);
    const advice = `they are kept, and tried again; to give them up, remove the file ${writeLogName(device)}`;
    this.#warn(`${name}: what ${device} was answered before it was removed is not written yet: ${why}; ${advice}`);
  }

  #contentOf({ owner, tag }: OrphanedDisk): LogContent | undefined {
    const { logs } = this.#services;
    const name = writeLogName(owner.device);
    if (logs === undefined || !logs.names().includes(name)) return undefined;
    using log = new KeptLog(logs, name);
    return log.contentFor(tag);
  }

  #lackOf({ request }: OrphanedDisk): string {
    return request === undefined
      ? "how it was opened is not recorded"
      : "its write log is missing, damaged or another's";
  }

  #amount(content: LogContent | undefined): string {
    return content === undefined ? "writes" : `${content.operations} operations (${content.bytes} bytes)`;
  }
}

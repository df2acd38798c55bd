/**
 * Many guests with many disks, as a test uses them: one process plays all of them (crowd_process.ts), because a process for
 * each would need more memory than the disks themselves.
 */

import type { NativeXen } from "../harness.ts";
import { GuestProcess } from "./guest.ts";

/** One line of the process's standard input. */
export interface CrowdOrder {
  readonly id: number;
  readonly verb: "attach" | "connect" | "begin-reads" | "end-reads" | "connected" | "detach";
  /** The first domain, how many of them, and disks for each. */
  readonly first: number;
  readonly domains: number;
  readonly each: number;
  /** For the images. */
  readonly folder: string;
  /** The first disk to connect. */
  readonly from: number;
  /** Between an answer and the next read of that disk. */
  readonly everyMs: number;
}

/** A running process with the disks of all guests. */
export class Crowd implements AsyncDisposable {
  readonly #xen: NativeXen;
  readonly #process: GuestProcess;
  #disks = 0;
  #connected = 0;

  constructor(xen: NativeXen) {
    this.#xen = xen;
    this.#process = new GuestProcess(xen, 0, [], "crowd_process.ts");
  }

  /** Creates domains from `first` on. */
  async create(first: number, domains: number): Promise<void> {
    for (let domid = first; domid < first + domains; domid++) await this.#xen.createDomain(domid);
  }

  /**
   * Attaches `each` sparse images of 16 MiB in the folder to each domain. Resolves when all images are open, with the
   * milliseconds that each disk waited for that.
   */
  async attach(first: number, domains: number, each: number, folder: string): Promise<number[]> {
    this.#disks += domains * each;
    return await this.#process.order({ verb: "attach", first, domains, each, folder });
  }

  /** Connects all disks that are not connected, and resolves with the milliseconds that this took. */
  async connect(): Promise<number> {
    const from = this.#connected;
    this.#connected = this.#disks;
    return await this.#process.order({ verb: "connect", from });
  }

  /** From now on each disk reads 4 KiB, and again that many milliseconds after each answer. */
  beginReads(everyMs: number): Promise<void> {
    return this.#process.order({ verb: "begin-reads", everyMs });
  }

  /** Ends that when all are answered; resolves with the milliseconds of each disk's longest read. */
  endReads(): Promise<number[]> {
    return this.#process.order({ verb: "end-reads" });
  }

  /** How many backends are Connected. */
  connected(): Promise<number> {
    return this.#process.order({ verb: "connected" });
  }

  /** Detaches all disks at once; resolves with the milliseconds that this took. */
  async detach(): Promise<number> {
    this.#disks = this.#connected = 0;
    return await this.#process.order({ verb: "detach" });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
  }
}

/**
 * Puts another disc into a guest's CD-ROM drive, or takes the one out that is in it: writes the nodes that libxl's cd-insert
 * and cd-eject write, and waits until the backend has acted on them.
 */

import { XenblkError } from "../errors.ts";
import type { Xenstore } from "../hypervisor.ts";
import { backendPath, type DeviceAddress, libxlPath } from "../xenbus/paths.ts";
import { STAYS_EMPTY } from "../xenbus/disc.ts";
import { parseState, XenbusState } from "../xenbus/states.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { retryConflicts } from "../xenstore.ts";
import { OTHERS_KINDS } from "./list.ts";
import { waitFor, type WaitOptions } from "./wait.ts";

/** What is in a drive. */
export interface DiscChange {
  /** Size of the disc in 512-byte sectors; 0: there is none. Absent: no guest uses the drive yet. */
  readonly sectors?: number;
}

/** How a disc is changed. */
export interface DiscOptions extends WaitOptions {
  /** The disc, as the node `params` has it. Absent: none, the drive is emptied. */
  readonly params?: string;
}

/**
 * Empties the drive, then puts the disc in, as libxl does. Where no guest uses the drive yet, only the nodes are written.
 * Rejects with {@linkcode XenblkError}: `failed` if the device is no drive, or with the backend's reason, and then the drive
 * is empty; `timeout` if no backend acts on it.
 */
export async function changeDisc(store: Xenstore, device: DeviceAddress, options: DiscOptions): Promise<DiscChange> {
  const { params } = options;
  const name = `${formatVdev(device.vdev)} of domain ${device.frontendDomain}`;
  const what = params === undefined ? `Cannot eject the disc of ${name}` : `Cannot insert ${params} into ${name}`;
  const drive = new Drive(store, device, what, options);
  drive.check();
  if (!drive.isUsed) {
    await drive.name(params ?? "");
    return {};
  }
  await drive.name("");
  await drive.until((sectors, error) => sectors === 0 && error?.endsWith(STAYS_EMPTY) !== true);
  if (params === undefined) return { sectors: 0 };
  await drive.name(params);
  await drive.until((sectors, error) => {
    if (error?.endsWith(STAYS_EMPTY) === true) throw new XenblkError(`${what}: ${error}`);
    return sectors !== undefined && sectors > 0;
  });
  return { sectors: drive.sectors ?? 0 };
}

/** The nodes of one drive. */
class Drive {
  readonly #store: Xenstore;
  readonly #device: DeviceAddress;
  readonly #what: string;
  readonly #wait: WaitOptions;
  readonly #path: string;

  constructor(store: Xenstore, device: DeviceAddress, what: string, wait: WaitOptions) {
    this.#store = store;
    this.#device = device;
    this.#what = what;
    this.#wait = wait;
    this.#path = backendPath(device);
  }

  /** The guest is connected. */
  get isUsed(): boolean {
    return parseState(this.#read("state")) === XenbusState.Connected;
  }

  /** As published. */
  get sectors(): number | undefined {
    const sectors = this.#read("sectors");
    return sectors === undefined ? undefined : Number(sectors);
  }

  /** Throws {@linkcode XenblkError} for what is no drive of ours. */
  check(): void {
    const { kind } = this.#device;
    if (this.#read("device-type") !== "cdrom") {
      throw new XenblkError(`${this.#what}: it is no CD-ROM drive`, {
        remedy: "attach one with --cdrom; a disk gets another image by `xenblk swap`",
      });
    }
    if (OTHERS_KINDS.has(kind)) {
      throw new XenblkError(`${this.#what}: its backend is ${kind}`, { remedy: "use `xl cd-eject` or `xl cd-insert`" });
    }
  }

  /** Names the disc, in libxl's own nodes, too. */
  async name(params: string): Promise<void> {
    const known = `${libxlPath(this.#device)}/params`;
    await retryConflicts(() =>
      this.#store.transaction((transaction) => {
        if (transaction.read(`${this.#path}/state`) === undefined) throw this.#gone();
        transaction.write(`${this.#path}/params`, params);
        if (transaction.read(known) !== undefined) transaction.write(known, params);
      }), this.#wait);
  }

  /** Until the size and the error of the drive are as wanted. */
  async until(isDone: (sectors: number | undefined, error: string | undefined) => boolean): Promise<void> {
    const look = (): true | undefined => {
      if (this.#read("state") === undefined) throw this.#gone();
      return isDone(this.sectors, this.#read("error")) || undefined;
    };
    if (await waitFor(this.#store, [this.#path], look, this.#wait)) return;
    throw new XenblkError(`${this.#what}: its backend did not act on it in time`, {
      kind: "timeout",
      remedy: `look at it with \`xenblk show\`, and check that \`xenblk\` serves kind ${this.#device.kind}`,
    });
  }

  #read(name: string): string | undefined {
    return this.#store.read(`${this.#path}/${name}`);
  }

  #gone(): XenblkError {
    return new XenblkError(`${this.#what}: its nodes were removed meanwhile`, { kind: "not-found" });
  }
}

/**
 * A simulated machine on which the real backend serves. It owns the memory, the xenstore, the service in domain 0, and
 * the guests.
 */

import { PAGE_BYTES } from "../../units.ts";
import type { GrantChoice } from "../../backend/grant_choice.ts";
import { DEFAULT_SETTINGS, type DeviceSettings } from "../../backend/settings.ts";
import type { AbiName } from "../../blkif/abi.ts";
import { XenblkError } from "../../errors.ts";
import type { DomId, Platform, Xenstore } from "../../hypervisor.ts";
import { createLogger } from "../../log.ts";
import { createMachine } from "../../sim/machine.ts";
import { openSimulatedPlatform } from "../../sim/platform.ts";
import type { PluginSettings } from "../../storage/plugin/settings.ts";
import type { PluginClient } from "../../storage/plugin/types.ts";
import { SimulatedStore } from "../../sim/xenstore.ts";
import { formatSize } from "../../sizes.ts";
import { attachDevice } from "../../toolstack/attach.ts";
import { DryRunGuest, type GuestImage, type GuestRings } from "./guest.ts";
import { type Service, startService } from "../../service.ts";

const KIND = "vbd3";
const BACKEND = 0 as DomId;
const CLOSE_TIMEOUT_MS = 10_000;

/** Memory that the backend needs per ring, and in addition to rings and data. */
const RING_BYTES = 10 * 2 ** 20;
const OTHER_BYTES = 64 * 2 ** 20;
/** Grant references of a guest in addition to those for data. */
const OTHER_GRANTS = 1024;

/** The settings of a machine. */
export interface MachineSettings {
  /** Maximum number of guests. */
  readonly guests: number;
  /** The rings that each guest's frontend asks for. */
  readonly frontend: GuestRings;
  readonly grants: GrantChoice;
  /** Maximum number of reactors. */
  readonly workers: number;
  /** Runs the guests' disks if they are in TypeScript; and how. */
  readonly plugins?: PluginClient;
  readonly plugin?: PluginSettings;
  /** How disks are served beyond that. What is absent is as in {@linkcode DEFAULT_SETTINGS}. */
  readonly settings?: Partial<DeviceSettings>;
}

/** A new guest with a disk whose nodes are written, as its frontend sees them. */
export interface GuestDisk {
  readonly domain: DomId;
  readonly vdev: number;
  readonly platform: Platform;
  readonly store: Xenstore;
}

/** The machine of a dry run. Disposing it ends the guests, then the service. */
export class DryRunMachine implements AsyncDisposable {
  readonly #memory: SharedArrayBuffer;
  readonly #frontend: GuestRings;
  readonly #store: SimulatedStore;
  readonly #service: Service;
  readonly #guests = new AsyncDisposableStack();
  #lastDomain: number = BACKEND;

  private constructor(memory: SharedArrayBuffer, store: SimulatedStore, service: Service, frontend: GuestRings) {
    this.#memory = memory;
    this.#store = store;
    this.#service = service;
    this.#frontend = frontend;
  }

  /** Rejects with {@linkcode XenblkError} if there is not enough memory. */
  static async start(options: MachineSettings): Promise<DryRunMachine> {
    const { guests, frontend, grants, workers, settings, plugins, plugin } = options;
    const memory = makeMachine(guests, frontend);
    const store = new SimulatedStore();
    const logger = createLogger("backend");
    // The run has locked a given image already, and the new ones are its own.
    const platform = Object.assign(openSimulatedPlatform(memory, BACKEND), {
      openXenstore: () => store.connect(BACKEND),
      ...(plugins === undefined ? {} : { plugins }),
    });
    // The user has named the images, and nobody else writes to this xenstore.
    const allowImages = [...settings?.allowImages ?? [], "plugin:**"];
    const service = await startService({
      platform,
      kind: KIND,
      settings: { ...DEFAULT_SETTINGS, ...settings, grants, maxQueues: frontend.queues, allowImages },
      ...(plugin === undefined ? {} : { plugin }),
      workers,
      // In a dry run, connects and closes are not worth a line at level info.
      logger: { ...logger, info: (line) => logger.debug(line) },
    });
    return new DryRunMachine(memory, store, service, frontend);
  }

  /** Creates a guest with a disk, and connects it. */
  async addGuest(image: GuestImage, abi: AbiName, seed: number): Promise<DryRunGuest> {
    const rings = this.#frontend;
    const guest = this.#guests.use(await DryRunGuest.start({ ...this.addDisk(image), abi, rings, image, seed }));
    await guest.connect();
    return guest;
  }

  /** Creates a guest with a disk; whoever asks for it connects the frontend. */
  addDisk({ params, readOnly }: Pick<GuestImage, "params" | "readOnly">): GuestDisk {
    const domain = ++this.#lastDomain as DomId;
    this.#store.createGuest(domain);
    using toolstack = this.#store.connect(BACKEND);
    const request = { domain, backendDomain: BACKEND, kind: KIND, params, readOnly, cdrom: false };
    const { vdev } = attachDevice(toolstack, request);
    const platform = openSimulatedPlatform(this.#memory, domain);
    return { domain, vdev, platform, store: this.#store.connect(domain) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#guests.disposeAsync();
    const { finished } = await this.#service.close({ leave: "detached", timeoutMs: CLOSE_TIMEOUT_MS });
    if (finished) return;
    throw new XenblkError("Cannot end the dry run in order: some requests are still in flight");
  }
}

/** A machine with enough memory and grants for these guests and their backend. */
function makeMachine(guests: number, { queues, segments, requests }: GuestRings): SharedArrayBuffer {
  const dataPages = requests * (segments + 1);
  const memoryBytes = OTHER_BYTES + guests * (dataPages * PAGE_BYTES + queues * RING_BYTES);
  try {
    return createMachine({ domains: guests + 1, memoryBytes, grantsPerDomain: dataPages + OTHER_GRANTS });
  } catch (error) {
    throw new XenblkError(`Cannot simulate a machine with ${formatSize(memoryBytes)} of memory`, {
      cause: error,
      remedy: "use fewer guests, a smaller depth or smaller blocks",
    });
  }
}

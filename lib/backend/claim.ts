/**
 * Takes a device's lock before its nodes exist, so that no other process that serves the kind can take the device first:
 * the process that attaches a disk also serves it, with its own options.
 */

import { XenblkError } from "../errors.ts";
import type { JournalStore } from "../hypervisor.ts";
import type { DeviceAddress } from "../xenbus/paths.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { deviceLabel, keptNames } from "./journals.ts";
import type { DeviceSettings } from "./settings.ts";

/** How one device is served that this process is about to attach. */
export interface ExpectedDevice {
  /** In place of those of the kind, but patterns of images are added. */
  readonly settings: Partial<DeviceSettings>;
  /** Keeps other processes from the device; it is released when the device is. */
  readonly claim: Disposable & {
    /** Where the device's lock, which the claim holds, can be taken again. */
    readonly journals: JournalStore;
  };
}

/** Another process holds the lock of the device, perhaps of an earlier one under this name. */
export class DeviceClaimedError extends XenblkError {}

/** The lock of at most one device, from {@linkcode take} until this is disposed or the process ends. */
export class DeviceClaim implements Disposable {
  readonly #store: JournalStore;
  #name: string | undefined;
  #lock: Disposable | undefined;

  constructor(store: JournalStore) {
    this.#store = store;
  }

  /** Locks the device, and unlocks an earlier one. Throws {@linkcode DeviceClaimedError} if another process holds it. */
  take(device: DeviceAddress): void {
    this[Symbol.dispose]();
    const name = keptNames(deviceLabel(device)).lock;
    this.#lock = this.#store.lock(name);
    if (this.#lock === undefined) {
      throw new DeviceClaimedError(
        `Cannot attach ${formatVdev(device.vdev)} to domain ${device.frontendDomain}: another process has it`,
        { remedy: `end the \`xenblk\` that serves ${deviceLabel(device)}, or choose another device` },
      );
    }
    this.#name = name;
  }

  /** The same store, but the lock that is held here can be taken again by this process. */
  get journals(): JournalStore {
    const store = this.#store;
    return {
      open: (name, lengthBytes, firstBytes) => store.open(name, lengthBytes, firstBytes),
      names: () => store.names(),
      remove: (name) => store.remove(name),
      lock: (name) => name === this.#name ? { [Symbol.dispose]: (): void => {} } : store.lock(name),
    };
  }

  [Symbol.dispose](): void {
    this.#lock?.[Symbol.dispose]();
    this.#lock = this.#name = undefined;
  }
}

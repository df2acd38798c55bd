/**
 * Taking a device for this process before its nodes are there, so that no other process that serves the kind can be the
 * first to see them: whoever attaches a disk then serves it, with the options it was given. What a device is otherwise
 * is not known here.
 */

import { XenblkError } from "../errors.ts";
import type { JournalStore } from "../hypervisor.ts";
import type { DeviceAddress } from "../xenbus/paths.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { deviceLabel, keptNames } from "./journals.ts";

/** Another process has the device, or has not let go yet of one that was there before. */
export class DeviceClaimedError extends XenblkError {}

/** At most one device, from {@linkcode take} until this is disposed or the process ends. */
export class DeviceClaim implements Disposable {
  readonly #store: JournalStore;
  #name: string | undefined;
  #lock: Disposable | undefined;

  constructor(store: JournalStore) {
    this.#store = store;
  }

  /** Takes the device, in place of one that was taken before. Throws {@linkcode DeviceClaimedError} if another has it. */
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

  /** The same store, in which the lock of the device that was taken is whoever's in this process asks for it. */
  get journals(): JournalStore {
    const store = this.#store;
    return {
      open: (name, lengthBytes) => store.open(name, lengthBytes),
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

/**
 * Asks the backend of a disk to adopt the new size of its image, or to make the image larger, and waits until it has
 * published that size to the guest.
 */

import { XenblkError } from "../errors.ts";
import type { Xenstore } from "../hypervisor.ts";
import { backendPath, type DeviceAddress } from "../xenbus/paths.ts";
import { formatResize, RESIZE_DONE, RESIZE_NODE } from "../xenbus/resize.ts";
import { parseState, stateName, XenbusState } from "../xenbus/states.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { isDisconnection, retryConflicts } from "../xenstore.ts";
import { describeDevice } from "./list.ts";
import { waitFor, type WaitOptions } from "./wait.ts";

/** The published size of the disk, in 512-byte sectors. */
export interface Resized {
  /** Before the request. */
  readonly before: number;
  /** After the request; the same if the image has not grown. */
  readonly now: number;
}

/** How a disk is resized, and how long that may take. */
export interface ResizeOptions extends WaitOptions {
  /** The new size in bytes; absent: that of the image. */
  readonly sizeBytes?: number;
}

/**
 * Asks the backend to read the image's size again, or to make the image as large as `sizeBytes` before. Rejects with
 * {@linkcode XenblkError}: `failed` with the backend's reason, or if the disk is not Connected; `timeout` if no backend
 * answers; `not-found` if the disk is removed meanwhile.
 */
export async function resizeDevice(store: Xenstore, device: DeviceAddress, options: ResizeOptions): Promise<Resized> {
  const path = backendPath(device);
  const node = `${path}/${RESIZE_NODE}`;
  const name = `${formatVdev(device.vdev)} of domain ${device.frontendDomain}`;
  const request = formatResize(options);
  const before = await retryConflicts(() => askToResize(store, path, name, request), options);
  let answer: string | undefined;
  try {
    answer = await waitFor(store, [path], () => {
      const value = store.read(node);
      if (value !== undefined) return value === request ? undefined : value;
      throw new XenblkError(`Cannot resize ${name}: its nodes were removed meanwhile`, { kind: "not-found" });
    }, options);
  } finally {
    forgetRequest(store, node);
  }
  if (answer === RESIZE_DONE) return { before, now: describeDevice(store, device).sectors ?? before };
  if (answer !== undefined) throw new XenblkError(`Cannot resize ${name}: ${answer}`);
  throw new XenblkError(`Cannot resize ${name}: its backend did not answer in time`, {
    kind: "timeout",
    remedy: `check that \`xenblk\` serves kind ${device.kind}; other backends do not support this request`,
  });
}

/** Removes the request. If the connection to xenstored is lost, the node stays; the next request overwrites it. */
function forgetRequest(store: Xenstore, node: string): void {
  try {
    store.remove(node);
  } catch (error) {
    if (!isDisconnection(error)) throw error;
  }
}

/** Writes the request; returns the published size in sectors. */
function askToResize(store: Xenstore, path: string, name: string, request: string): number {
  return store.transaction((transaction) => {
    const state = parseState(transaction.read(`${path}/state`));
    const sectors = transaction.read(`${path}/sectors`);
    if (state !== XenbusState.Connected || sectors === undefined) {
      throw new XenblkError(`Cannot resize ${name}: it is not Connected but ${stateName(state)}`, {
        remedy: "resize it once the guest is connected to it",
      });
    }
    transaction.write(`${path}/${RESIZE_NODE}`, request);
    return Number(sectors);
  });
}

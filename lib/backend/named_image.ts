/**
 * An image as the toolstack's nodes name it: `params`, and what libxl's script of block devices writes beside that.
 */

import type { XenstoreOperations } from "../hypervisor.ts";

/** The numbers of a block device in hexadecimal, `fd:3`, and its path. Absent where no script has run. */
const NUMBERS_NODE = "physical-device";
const PATH_NODE = "physical-device-path";
/** There while the guest's storage daemon serves an image that its name would have served otherwise; see in_daemon.ts. */
export const IN_DAEMON_NODE = "in-daemon";

/** An image by its nodes. */
export interface NamedImage {
  readonly params: string;
  /** Of a block device. */
  readonly physical?: { readonly numbers: string; readonly path: string };
  /** The value of {@linkcode IN_DAEMON_NODE}. Absent: the image is served as its name and the settings say. */
  readonly inDaemon?: string | undefined;
}

/** Makes the nodes below `path` name the image. A script's nodes are not created. */
export function writeImageName(transaction: XenstoreOperations, path: string, image: NamedImage): void {
  const { params, physical, inDaemon } = image;
  transaction.write(`${path}/params`, params);
  const node = `${path}/${IN_DAEMON_NODE}`;
  if (inDaemon !== undefined) transaction.write(node, inDaemon);
  else if (transaction.read(node) !== undefined) transaction.remove(node);
  for (const [name, value] of [[NUMBERS_NODE, physical?.numbers], [PATH_NODE, physical?.path]] as const) {
    const node = `${path}/${name}`;
    if (transaction.read(node) === undefined) continue;
    if (value === undefined) transaction.remove(node);
    else transaction.write(node, value);
  }
}

/** Makes the nodes name the image `but` if they name the other one. */
export function renameImage(transaction: XenstoreOperations, path: string, not: NamedImage, but: NamedImage): void {
  const isNamed = transaction.read(`${path}/params`) === not.params &&
    transaction.read(`${path}/${IN_DAEMON_NODE}`) === not.inDaemon;
  if (!isNamed) return;
  transaction.write(`${path}/params`, but.params);
  if (but.inDaemon !== undefined) transaction.write(`${path}/${IN_DAEMON_NODE}`, but.inDaemon);
  else if (not.inDaemon !== undefined) transaction.remove(`${path}/${IN_DAEMON_NODE}`);
}

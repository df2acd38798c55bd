/**
 * An image as the toolstack's nodes name it: `params`, and what libxl's script of block devices writes beside that.
 */

import type { XenstoreOperations } from "../hypervisor.ts";

/** The numbers of a block device in hexadecimal, `fd:3`, and its path. Absent where no script has run. */
const NUMBERS_NODE = "physical-device";
const PATH_NODE = "physical-device-path";

/** An image by its nodes. */
export interface NamedImage {
  readonly params: string;
  /** Of a block device. */
  readonly physical?: { readonly numbers: string; readonly path: string };
}

/** Makes the nodes below `path` name the image. A script's nodes are not created. */
export function writeImageName(transaction: XenstoreOperations, path: string, { params, physical }: NamedImage): void {
  transaction.write(`${path}/params`, params);
  for (const [name, value] of [[NUMBERS_NODE, physical?.numbers], [PATH_NODE, physical?.path]] as const) {
    const node = `${path}/${name}`;
    if (transaction.read(node) === undefined) continue;
    if (value === undefined) transaction.remove(node);
    else transaction.write(node, value);
  }
}

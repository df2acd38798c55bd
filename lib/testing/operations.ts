/**
 * The operations of the ring by name, for raw requests: xen/interface/io/blkif.h without its prefix.
 */

import { OP_DISCARD, OP_FLUSH_DISKCACHE, OP_INDIRECT, OP_READ, OP_WRITE, OP_WRITE_BARRIER } from "../blkif/abi.ts";

/** Numbers of the operations. */
export const OPERATIONS: Readonly<
  Record<"read" | "write" | "barrier" | "flush" | "discard" | "indirect", number>
> = {
  read: OP_READ,
  write: OP_WRITE,
  barrier: OP_WRITE_BARRIER,
  flush: OP_FLUSH_DISKCACHE,
  discard: OP_DISCARD,
  indirect: OP_INDIRECT,
};

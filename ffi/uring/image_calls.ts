/**
 * The system calls on an image's file, as a file thread makes them: opening it, examining it, opening descriptors for
 * channels, and closing all. Each may block for ever.
 */

import type { FileIdentity, LockableImage } from "../../lib/hypervisor.ts";
import { type DescriptorLease, ImageDescriptors } from "../../lib/storage/image/descriptors.ts";
import { sameFile } from "../../lib/storage/image/file.ts";
import type { FileCall } from "../../lib/storage/image/file_call.ts";
import { cannotGrow, checkGrowth, checkKind, MAGIC_BYTES } from "../../lib/storage/image/inspect.ts";
import type { FileMedium, ImageOptions } from "../../lib/storage/image/medium.ts";
import { XenblkError } from "../../lib/errors.ts";
import * as descriptor from "../linux/image_descriptor.ts";
import { isReadOnlyDevice, mediaBelow } from "../linux/image_devices.ts";
import { coverDescriptor } from "../linux/lock_calls.ts";
import { examine } from "./medium.ts";

/** The calls, with their arguments. */
export type ImageCall =
  & FileCall
  & (
    | { readonly kind: "open"; readonly path: string; readonly options: ImageOptions }
    | { readonly kind: "lease"; readonly image: LockableImage; readonly options: ImageOptions }
    | { readonly kind: "size"; readonly image: LockableImage; readonly growTo?: number }
    | { readonly kind: "isReplaced" | "close"; readonly image: LockableImage }
  );

/** What opening an image finds out. */
export interface ImageLook {
  readonly identity: FileIdentity;
  readonly below: readonly FileIdentity[];
  readonly sizeBytes: number;
  readonly start: Uint8Array;
  readonly medium: FileMedium;
  /** The descriptors, the one that looks among them. */
  readonly descriptors: SharedArrayBuffer;
}

/** See FileCallModule. Throws XenblkError, or an Error with the `code` of the system call that failed. */
export function fileCall(call: FileCall): unknown {
  const request = call as ImageCall;
  switch (request.kind) {
    case "open":
      return open(request.path, request.options);
    case "lease":
      return lease(request.image, request.options);
    case "size":
      return sizeOf(request.image, request.growTo);
    case "isReplaced":
      return isReplaced(request.image);
    case "close":
      return new ImageDescriptors(request.image).clear().forEach(descriptor.closeDescriptor);
  }
}

function open(path: string, options: ImageOptions): ImageLook {
  // Before opening, because opening a FIFO would wait for its other end.
  checkKind(path, descriptor.factsOf(path));
  using undo = new DisposableStack();
  const fd = undo.adopt(openForUse(path, options.readOnly), descriptor.closeDescriptor);
  const facts = descriptor.factsOf(fd);
  checkKind(path, facts);
  const look = {
    identity: facts.identity,
    below: facts.blockDevice === undefined ? [] : mediaBelow(facts.blockDevice),
    sizeBytes: descriptor.sizeOf(fd),
    start: descriptor.startOf(fd, MAGIC_BYTES),
    medium: examine(fd, options),
    descriptors: ImageDescriptors.allocate(),
  };
  new ImageDescriptors({ path, ...look }).add(fd);
  undo.move();
  return look;
}

/** Opens the image; of a block device that takes no writes, the error says so. */
function openForUse(path: string, readOnly: boolean): number {
  try {
    const fd = descriptor.openDescriptor(path, { readOnly });
    if (readOnly || !isReadOnlyDevice(fd)) return fd;
    descriptor.closeDescriptor(fd);
  } catch (error) {
    if (readOnly) throw error;
    if (!canOnlyBeRead(path)) throw error;
  }
  throw new XenblkError(`Cannot open image ${path} for writing: the block device is read-only`, {
    remedy: `attach it read-only (access=ro, mode r), or let it be written (blockdev --setrw ${path})`,
  });
}

function canOnlyBeRead(path: string): boolean {
  try {
    using undo = new DisposableStack();
    const fd = undo.adopt(descriptor.openDescriptor(path, { readOnly: true }), descriptor.closeDescriptor);
    return isReadOnlyDevice(fd);
  } catch {
    return false; // the first error says why
  }
}

function lease(image: LockableImage, { readOnly, writeThrough }: ImageOptions): DescriptorLease {
  const table = new ImageDescriptors(image);
  const reused = table.reuse();
  if (reused !== undefined) return reused;
  using undo = new DisposableStack();
  const options = { readOnly, writeThrough };
  const fd = undo.adopt(descriptor.reopenDescriptor(table.look, options), descriptor.closeDescriptor);
  // If the image is being closed, its number may be another file's by now.
  if (!sameFile(descriptor.factsOf(fd).identity, image.identity)) throw new Error("the image is closed");
  const added = table.add(fd);
  undo.move();
  coverDescriptor(fd, table);
  return added;
}

/** Bytes of the image, once it is as large as `growTo`. */
function sizeOf(image: LockableImage, growTo: number | undefined): number {
  const { look } = new ImageDescriptors(image);
  const sizeBytes = descriptor.sizeOf(look);
  if (growTo === undefined) return sizeBytes;
  checkGrowth(image.path, descriptor.factsOf(look).isFile, sizeBytes, growTo);
  try {
    descriptor.setSize(look, growTo);
  } catch (error) {
    throw cannotGrow(image.path, growTo, error);
  }
  return growTo;
}

/** Whether the image's path names another file, or none. */
function isReplaced({ path, identity }: LockableImage): boolean {
  try {
    return !sameFile(descriptor.factsOf(path).identity, identity);
  } catch {
    return true;
  }
}

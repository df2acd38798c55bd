/**
 * What the toolstack's nodes say of a disk: which image, and how the guest may use it.
 */

import { XenblkError } from "../errors.ts";
import type { ReadNode } from "../xenbus/negotiate.ts";
import { IN_DAEMON_NODE } from "./named_image.ts";

/** What a CD-ROM drive without a disc opens in place of an image. */
export const NO_DISC = { format: "null", target: "0" } as const;

/** What the toolstack says of the disk. */
export interface DeviceDescription {
  /** As a toolstack names an image: `format:target`, ..., see storage/image/spec.ts. */
  readonly params: string;
  /** `mode` does not allow writing. */
  readonly readOnly: boolean;
  /** `mode` is `w!`: others may write to the image too. */
  readonly shared: boolean;
  /** The backend's type as the toolstack calls it. */
  readonly type: string;
  /** The virtual device's name, such as `xvda`. */
  readonly name: string;
  /** `device-type` says so. */
  readonly cdrom: boolean;
  /** The node `removable` says 1. */
  readonly removable: boolean;
  /** The node `direct-io-safe` says 1: the device itself may read and write the guest's pages. */
  readonly directIoSafe: boolean;
  /** The node `discard-enable` does not say 0. */
  readonly discardEnable: boolean;
  /**
   * The storage daemon has the image for a while: the file or block device, as in_daemon.ts writes it. Absent: it is served
   * as the settings say.
   */
  readonly inDaemon?: string;
  /** The guest's UUID, as far as it is known. */
  readonly guestUuid?: string;
}

/** Nodes that say what the disk is. */
export const DESCRIPTION_NODES: readonly string[] = [
  "device-type",
  "params",
  "mode",
  "type",
  "dev",
  "removable",
  "direct-io-safe",
  "discard-enable",
  IN_DAEMON_NODE,
];

/**
 * Describes the disk of the backend's directory `path`, below which `read` reads. `image` replaces `params`. Throws
 * {@linkcode XenblkError} naming a node that is missing.
 */
export function describe(path: string, read: ReadNode, image: string | undefined): DeviceDescription {
  const required = (name: string, value = read(name)): string => {
    if (value !== undefined && value !== "") return value;
    throw new XenblkError(`Cannot serve ${path}: its node ${name} is ${value === "" ? "empty" : "missing"}`, {
      remedy: name === "params" ? "let the toolstack write it, or give --image" : "let the toolstack write it",
    });
  };
  const params = image ?? read("params");
  const cdrom = required("device-type") === "cdrom";
  const empty = params !== undefined && /^([a-z][a-z0-9]*:)?$/.test(params);
  if (empty && !cdrom) {
    throw new XenblkError(`Cannot serve ${path}: its node params names no image, and it is no CD-ROM drive`, {
      remedy: "attach it with an image, or with devtype=cdrom as an empty drive",
    });
  }
  const inDaemon = read(IN_DAEMON_NODE);
  return {
    params: empty ? `${NO_DISC.format}:${NO_DISC.target}` : required("params", params),
    readOnly: !required("mode").includes("w"),
    shared: required("mode").includes("!"),
    type: required("type"),
    name: required("dev"),
    cdrom,
    removable: read("removable") === "1",
    directIoSafe: read("direct-io-safe") === "1",
    discardEnable: read("discard-enable") !== "0",
    ...(inDaemon === undefined ? {} : { inDaemon }),
  };
}

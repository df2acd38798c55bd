/**
 * The error for a Xen device node that cannot be opened: it names the node, the reason, and the kernel module or right
 * that is missing.
 */

import { EACCES, ENOENT, EPERM } from "../../lib/errno.ts";
import { XenblkError } from "../../lib/errors.ts";
import { errnoText } from "../linux/libc.ts";

/** A Linux device of the Xen drivers. */
export interface XenDevice {
  /** For people: `the grant table`. */
  readonly purpose: string;
  readonly path: string;
  readonly kernelModule: string;
}

/** Why opening `device` failed with `errnoValue`, as a {@linkcode XenblkError} of kind `hypervisor`. */
export function deviceError(device: XenDevice, errnoValue: number): XenblkError {
  const remedy = errnoValue === EACCES || errnoValue === EPERM
    ? "run as root, or give this user read and write access to the device"
    : errnoValue === ENOENT
    ? `load the kernel module (modprobe ${device.kernelModule}); it needs a kernel that runs under Xen`
    : "check that this kernel runs under Xen (/sys/hypervisor/type says xen)";
  return new XenblkError(`Cannot open ${device.purpose}: ${device.path}: ${errnoText(errnoValue)}`, {
    kind: "hypervisor",
    remedy,
  });
}

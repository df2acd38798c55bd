/**
 * A module that loads and then opens nothing: neither a platform nor a disk nor an executor.
 */

import { XenblkError } from "../../../mod.ts";

export function openPlatform(): never {
  throw new XenblkError("no such hypervisor", { remedy: "boot under one" });
}

export function openChannel(): never {
  throw new Error("no such disk");
}

export function openExecutor(): never {
  throw new Error("no such executor");
}

/**
 * A module that loads and then opens nothing: neither a platform nor a disk nor an executor.
 */

export function openPlatform(): never {
  throw new Error("no such hypervisor");
}

export function openChannel(): never {
  throw new Error("no such disk");
}

export function openExecutor(): never {
  throw new Error("no such executor");
}

/**
 * A module that loads and then opens nothing: neither a platform nor a disk.
 */

export function openPlatform(): never {
  throw new Error("no such hypervisor");
}

export function openChannel(): never {
  throw new Error("no such disk");
}

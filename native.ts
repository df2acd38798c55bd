/**
 * The library's way to the real hypervisor: a composition root that loads ffi only when a function here is called, so
 * that importing the library opens no library.
 */

import { attachOn, type AttachOptions } from "./lib/attach.ts";
import { type AttachedDisk, openDisks } from "./lib/attached_disk.ts";
import { mustBeDisposed } from "./lib/forgotten.ts";
import type { HostPlatform, NativePlatform } from "./lib/host_platform.ts";

/**
 * The hypervisor that this process runs under. Resolves also where there is none: each part opens its library when it
 * is first asked for, and then throws {@linkcode XenblkError} (`hypervisor`) with what is missing.
 */
export async function openNativePlatform(): Promise<NativePlatform> {
  return (await import("./ffi/platform.ts")).openNativePlatform();
}

/**
 * Gives a running guest a disk and serves it in this process. Resolves once the guest has connected. Rejects with
 * {@linkcode XenblkError}, leaving nothing behind: `not-found` (no such domain), `timeout` (the guest did not connect),
 * `hypervisor` (Xen is missing or not permitted), `usage` (an option), `failed` (the image, the virtual device, or the
 * signal, with its reason as the cause).
 *
 * @example
 * ```ts ignore
 * import { attach } from "xenblk";
 *
 * await using disk = await attach({ domain: "web", image: "disk.img", vdev: "xvdb" });
 * console.log(disk.vdev, await disk.stats());
 * await disk.detach({ timeoutMs: 60_000 });
 * ```
 *
 * @param options The disk, and how it is served. `platform`: another host, such as a simulated one; absent: this
 * process's.
 */
export async function attach(options: AttachOptions & { readonly platform?: HostPlatform }): Promise<AttachedDisk> {
  const { platform, ...rest } = options;
  const disk = await attachOn(platform ?? await openNativePlatform(), rest);
  const { vdev, address: { frontendDomain: domain } } = disk;
  // A program that ends with a disk attached leaves it Connected: its guest waits.
  const remedy = `serve it with \`xenblk serve\`, or remove it with \`xenblk detach ${domain} ${vdev}\``;
  const text = `${vdev} of domain ${domain} was not disposed: it stays Connected; ${remedy}`;
  mustBeDisposed(() => openDisks().has(disk) ? text : undefined);
  return disk;
}

/**
 * Who uses an image: guests, by xenstore, and whoever holds the image's lock. Both are looked up as far as this machine
 * and Deno's permissions allow.
 */

import { XenblkError } from "../../errors.ts";
import { isFile } from "../../storage/image/formats.ts";
import { parseParams } from "../../storage/image/spec.ts";
import { identityOf } from "../../storage/image/file.ts";
import { domainLabel } from "../../toolstack/domains.ts";
import { type DeviceListing, listDevices } from "../../toolstack/list.ts";
import { type Medium, mediumAt, overlap, PATH_LOOKUPS } from "../../toolstack/medium.ts";
import type { Host } from "../verb.ts";

/** A guest's disk that has the image. */
export type ImageUse = Pick<DeviceListing, "name" | "kind" | "readOnly" | "frontendDomain" | "domainName">;

/** The disks that have the image, in xenstore; none where there is no xenstore. */
export async function guestsOf(host: Host, path: string): Promise<ImageUse[]> {
  const image = await mediumAt(path, PATH_LOOKUPS);
  const devices = image === undefined ? [] : await listAll(host);
  const isSame = await Promise.all(devices.map(async ({ params }) => {
    const medium = await mediumOf(params);
    return medium !== undefined && overlap(image!, medium);
  }));
  return devices.filter((_device, index) => isSame[index]).map(
    ({ name, kind, readOnly, frontendDomain, domainName }) => ({
      name,
      kind,
      readOnly,
      frontendDomain,
      ...(domainName === undefined ? {} : { domainName }),
    }),
  );
}

/** `xvda of web (domain 5), for writing`. */
export function useText({ name, readOnly, frontendDomain, domainName }: ImageUse): string {
  const guest = domainLabel({ domain: frontendDomain, ...(domainName === undefined ? {} : { name: domainName }) });
  return `${name} of ${guest}, ${readOnly ? "read-only" : "for writing"}`;
}

/**
 * Who holds the image's lock in a way that excludes this use: the end of a sentence, `process 12 (qemu) uses it`.
 * Undefined: nobody, or it cannot be found out.
 */
export async function holderOf(host: Host, path: string, writes: boolean): Promise<string | undefined> {
  try {
    const { imageLocks } = await nativePlatform(host);
    const identity = identityOf(await Deno.stat(path));
    const lock = await imageLocks.tryLock({ path, identity }, { writes, shared: false, by: "image" });
    if (typeof lock === "string") return lock;
    await lock[Symbol.asyncDispose]();
  } catch {
    // without the permission, or on a file system without locks, nobody can be named
  }
  return undefined;
}

/** The error for an image that is in use; `what` is as `Cannot check image a.qcow2`. */
export async function inUseError(host: Host, what: string, path: string, writes: boolean): Promise<XenblkError> {
  const guests = (await guestsOf(host, path)).filter(({ readOnly }) => writes || !readOnly).map(useText);
  const holder = await holderOf(host, path, writes);
  const who = [...guests.map((guest) => `it is ${guest}`), ...(holder === undefined ? [] : [holder])];
  return new XenblkError(`${what}: ${who.length === 0 ? "another process uses it" : who.join("; ")}`, {
    remedy: "end that use first",
  });
}

async function mediumOf(params: string | undefined): Promise<Medium | undefined> {
  try {
    const other = await parseParams(params ?? "");
    return isFile(other) ? await mediumAt(other.target, PATH_LOOKUPS) : undefined;
  } catch {
    return undefined; // no image's name
  }
}

async function listAll(host: Host): Promise<DeviceListing[]> {
  try {
    using store = (await nativePlatform(host)).openXenstore();
    return listDevices(store);
  } catch {
    return []; // no Xen here, or no permission to use it
  }
}

/** Deno would ask a person for a permission that it lacks. */
async function nativePlatform(host: Host): ReturnType<Host["openNativePlatform"]> {
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") throw new Error("no permission for FFI");
  return await host.openNativePlatform();
}

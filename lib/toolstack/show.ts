/**
 * Reads one disk in detail from xenstore: what the toolstack asked for, what the backend offers, and what the guest
 * chose. Changes nothing.
 */

import { errorText } from "../errors.ts";
import type { Xenstore, XenstoreOperations } from "../hypervisor.ts";
import { type Offer, readOffer } from "../xenbus/features.ts";
import { type FrontendParameters, readFrontend } from "../xenbus/negotiate.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../xenbus/paths.ts";
import { describeDevice, type DeviceListing } from "./list.ts";

/** A disk as its nodes describe it, in detail. A member is absent where its node is missing. */
export interface DeviceDetails extends DeviceListing {
  /** The toolstack wants the backend to keep the device when the guest closes it. */
  readonly online: boolean;
  /** What libxl waits for: `connected`, or `error`. */
  readonly hotplugStatus?: string;
  /** Smallest unit of I/O in bytes, as published. */
  readonly logicalSectorBytes?: number;
  /** Smallest unit in bytes that is written without reading first, as published. */
  readonly physicalSectorBytes?: number;
  /** The toolstack permits direct I/O on the guest's pages. */
  readonly directIoSafe: boolean;
  /** What the backend offers; absent until the backend has published it. */
  readonly offer?: Offer;
  /** The ABI that the frontend named. */
  readonly protocol?: string;
  /** The rings that the frontend has published. */
  readonly rings?: FrontendParameters["queues"];
  /** The frontend reuses its grants. */
  readonly frontendPersistent?: boolean;
  /** Why the frontend's nodes are not valid. */
  readonly frontendError?: string;
}

/** Reads everything in one transaction. */
export function showDevice(store: Xenstore, device: DeviceAddress): DeviceDetails {
  return store.transaction((transaction) => {
    const read = (name: string): string | undefined => transaction.read(`${backendPath(device)}/${name}`);
    const bytes = (name: string): number | undefined => {
      const text = read(name);
      return text !== undefined && /^[0-9]{1,9}$/.test(text) ? Number(text) : undefined;
    };
    const offer = read("feature-flush-cache") === undefined ? undefined : readOffer(read);
    const optional = {
      hotplugStatus: read("hotplug-status"),
      logicalSectorBytes: bytes("sector-size"),
      physicalSectorBytes: bytes("physical-sector-size"),
      offer,
      ...(offer === undefined ? {} : frontendOf(transaction, device, offer)),
    };
    return {
      ...describeDevice(transaction, device),
      online: read("online") === "1",
      directIoSafe: read("direct-io-safe") === "1",
      ...Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)),
    };
  });
}

/** The frontend's nodes, once it has published its rings. */
function frontendOf(store: XenstoreOperations, device: DeviceAddress, offer: Offer): Partial<DeviceDetails> {
  const path = frontendPath(device);
  const read = (name: string): string | undefined => store.read(`${path}/${name}`);
  const named = ["ring-ref", "ring-ref0", "queue-0/ring-ref", "queue-0/ring-ref0"].some((name) => read(name));
  const protocol = read("protocol");
  if (!named) return protocol === undefined ? {} : { protocol };
  try {
    const { abi, queues, persistent } = readFrontend(read, {
      frontendPath: path,
      defaultProtocol: "x86_32-abi",
      offer,
    });
    return { ...(protocol === undefined ? {} : { protocol: abi }), rings: queues, frontendPersistent: persistent };
  } catch (error) {
    return { frontendError: errorText(error) };
  }
}

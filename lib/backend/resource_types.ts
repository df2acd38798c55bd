/**
 * The shapes of what a device holds (resources.ts): what that is made from, what the device itself uses beside it, what was negotiated, the open image, and what
 * the device is notified of.
 */

import type { Clock } from "../clock.ts";
import type { DataPlane, GrantMode } from "../dataplane/types.ts";
import type { JournalStore } from "../hypervisor.ts";
import type { Logger } from "../log.ts";
import type { Disk, DiskRequest } from "../storage/disk.ts";
import type { ImageLocks } from "../storage/image/lock.ts";
import type { ExcludingDiskFinder } from "../toolstack/sharing.ts";
import type { Turns } from "../turns.ts";
import type { Offer } from "../xenbus/features.ts";
import type { FrontendParameters } from "../xenbus/negotiate.ts";
import type { DeviceDescription } from "./description.ts";
import type { ConnectionIdentity } from "./journals.ts";
import type { ChosenLive } from "./live_settings.ts";
import type { DeviceSettings } from "./settings.ts";

/** What the resources of a device are made from. */
export interface ResourceServices {
  /** Serves the rings. */
  readonly dataPlane: DataPlane;
  /** Opens an image, or rejects with the reason. */
  readonly openDisk: (request: DiskRequest) => Promise<Disk>;
  /** Locks images while a guest uses them; absent: images are not locked. */
  readonly imageLocks?: ImageLocks;
  /** Bounds the wait for an image's lock. */
  readonly clock: Clock;
  /** Where the device's lock and latch are kept, and the journals of its rings. */
  readonly journals: JournalStore;
  /** Rings have journals. False: a crash loses the requests in flight. */
  readonly keepJournals: boolean;
  /** How images are opened and rings are served. */
  readonly settings: DeviceSettings;
  /** What was chosen for this disk, as the settings have it; see live_settings.ts. Absent: nothing. */
  readonly chosen?: ChosenLive;
  /** Gets what filters hold open, while they do. */
  readonly holds?: Set<AsyncDisposable>;
}

/** What a device uses of the rest of the process. */
export interface DeviceServices extends ResourceServices {
  /** For lines that the guest can cause: limited per guest. */
  readonly logger: Logger;
  /** For what happens at most once in an attachment and must not be missed: not limited. Absent: `logger`. */
  readonly alarms?: Logger;
  /** Shared by the devices of the process: their looks leave the thread to others. */
  readonly turns: Turns;
  /** Called after each look at the device. */
  readonly looked?: () => void;
  /** Searches the disks of other guests of this host; absent: whoever holds an image's lock is waited for. */
  readonly findExcludingDisk?: ExcludingDiskFinder;
}

/** What was negotiated for a connection. */
export interface Connection {
  /** What the frontend asked for. */
  readonly frontend: FrontendParameters;
  /** What it could ask for. */
  readonly offer: Offer;
  /** The mode that both sides agreed to. */
  readonly grants: GrantMode;
  /** Why that is not the mode of the settings. */
  readonly grantsReason: string | undefined;
  /** The device itself may read and write the guest's pages. */
  readonly directIoSafe: boolean;
  /** Tells this connection from earlier ones. */
  readonly identity: ConnectionIdentity;
  /** Discards are carried out. */
  readonly discard: boolean;
}

/** A ring of a connection, and the disk that it is to have. */
export interface RingPlace {
  /** Its number. */
  readonly queue: number;
  readonly disk: Disk;
  readonly connection: Connection;
}

/** An image that is open, and what the toolstack says of it. */
export interface OpenImage {
  readonly disk: Disk;
  readonly description: DeviceDescription;
}

/** An image's size in 512-byte sectors, before it was looked at and now. */
export interface Growth {
  readonly before: number;
  readonly now: number;
}

/** What a device is notified of by its resources. */
export interface ResourceEvents {
  /** The data plane had to stop a ring that is still open, a flush failed there, or a disk is in trouble. */
  readonly ringStopped: () => void;
  /** Another reactor serves a ring. */
  readonly ringMoved: () => void;
  /** Storage has answered after a call had stopped waiting for it. */
  readonly answered: () => void;
  /** A filter has a line for the operator. */
  readonly warn: (message: string) => void;
}

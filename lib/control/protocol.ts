/**
 * The control protocol of a serving process: JSON-RPC 2.0, one message a line, over a Unix socket. docs/control.md
 * describes it for people, and docs/control.schema.json for programs.
 */

import type { Exchanged } from "../backend/exchange.ts";
import type { DeviceSettings } from "../backend/settings.ts";
import type { DeviceReport } from "../backend/status.ts";
import type { ErrorKind } from "../errors.ts";
import type { DiskFigures } from "../figures/figures.ts";
import type { JobReport } from "../jobs/job.ts";
import type { Pause, VisitState } from "../jobs/visits.ts";
import type { LogLevel } from "../log.ts";
import type { SnapshotChain } from "../storage/qemu/overlay_chain.ts";
import type { TakenSnapshot } from "../storage/qemu/overlay_create.ts";
import type { AllLimits } from "../storage/filter/limits.ts";
import type { ThrottleOptions } from "../storage/filter/table.ts";
import type { DomainInfo } from "../toolstack/domains.ts";

/** Grows when a client of the version before would no longer understand the answers. */
export const PROTOCOL_VERSION = 1;
/** The longest line of a client, in bytes. */
export const MOST_REQUEST_BYTES = 65_536;

/** No members. */
export type Nothing = Readonly<Record<never, never>>;

/** The verb that a serving process runs. */
export type ServingVerb = "serve" | "attach";

/** Who answers on a socket. */
export interface Hello {
  readonly protocol: number;
  readonly pid: number;
  /** Of xenblk. */
  readonly version: string;
  readonly verb: ServingVerb;
  /** The backend kind, such as `vbd3`. */
  readonly kind: string;
  /** It takes the method `attach`. */
  readonly attaches: boolean;
}

/** What a request about one device names. */
export interface DeviceParams {
  /** Its label: `vbd3/5/51712`, that is kind, domid and virtual device number. */
  readonly device: string;
}

/** The same where it may be left out: all devices. */
export interface DevicesParams {
  readonly device?: string;
}

/** What one disk did. */
export interface DeviceFigures {
  readonly device: string;
  readonly figures: DiskFigures;
}

/** The settings of a device that `attach` takes; those that are absent are the serving process's. */
export interface SettingsParams extends Partial<Omit<DeviceSettings, "image" | "readOnly" | "filters">> {
  /** As `--filter` takes them: `throttle,iops=500`. */
  readonly filters?: readonly string[];
}

/** A disk for a guest. */
export interface AttachParams extends SettingsParams {
  /** The guest: its name, UUID or domid. */
  readonly domain: string | number;
  /** As `xenblk attach` takes it, with absolute paths: others are relative to the serving process. */
  readonly image: string;
  /** Absent: the first free one. */
  readonly vdev?: string;
  readonly readOnly?: boolean;
  readonly shared?: boolean;
  readonly cdrom?: boolean;
  /** How long the guest may take to connect. Default 60 000. */
  readonly timeoutMs?: number;
}

/** A disk that a guest has connected to. */
export interface Attached {
  readonly device: string;
  /** The virtual device's name, such as `xvdb`. */
  readonly vdev: string;
  /** The image, as the node `params` names it. */
  readonly params: string;
  readonly guest: DomainInfo;
}

/** A backup of a disk. */
export interface BackupParams extends DeviceParams {
  /** A new file by its absolute path, a block device, or an `nbd://` URI. */
  readonly target: string;
  /** Absent: as the file's name says; of a device or a server, raw. */
  readonly format?: "qcow2" | "raw";
  /** Only what has changed since the last backup, if that is known. */
  readonly incremental?: boolean;
  /** The most that it copies. Absent, or 0: as fast as it goes. */
  readonly bytesPerSecond?: number;
  /** The directory of the scratch file. Absent: that of the disk's image. */
  readonly scratch?: string;
}

/** Limits of a disk. 0: none. */
export type Limits = ThrottleOptions;

/** A disk that is to be shown at one instant, over NBD. */
export interface ExportParams extends DeviceParams {
  /** The Unix socket to make. Absent: one beside the control sockets. */
  readonly socket?: string;
  /** Listen there, by TCP, in place of a Unix socket. Port 0: one that is free. */
  readonly listen?: { readonly hostname: string; readonly port: number };
  /** A bitmap of the disk, shown as the context `qemu:dirty-bitmap:NAME`. */
  readonly bitmap?: string;
  /** Where what the guest overwrites is kept. Default /var/tmp. */
  readonly scratchDirectory?: string;
  /** The most of that. Default 10 GiB. */
  readonly scratchBytes?: number;
  /** Ends after so long. */
  readonly limitMs?: number;
  /** Until `endExport`. Else it ends with the connection, too. */
  readonly stays?: boolean;
}

/** Of what needs a storage daemon. */
export interface Entering {
  /** The disk had none, and has entered one: so long its requests waited. */
  readonly entered?: Pause;
}

/** A job that has begun. */
export interface BegunJob extends Entering {
  readonly job: JobReport;
}

/** The methods: their parameters and results. */
export interface Methods {
  /** Who answers. */
  readonly hello: { readonly params: Nothing; readonly result: Hello };
  /** Answers as soon as the process can. */
  readonly ping: { readonly params: Nothing; readonly result: Nothing };
  /** What the devices look like now. */
  readonly status: { readonly params: DevicesParams; readonly result: { readonly devices: readonly DeviceReport[] } };
  /** What the devices did. */
  readonly stats: { readonly params: DevicesParams; readonly result: { readonly devices: readonly DeviceFigures[] } };
  /** From now on the connection gets events, and the lines of the log from this level on; absent: no lines. */
  readonly subscribe: {
    readonly params: { readonly log?: LogLevel };
    readonly result: { readonly devices: readonly DeviceReport[] };
  };
  /** Gives a guest a disk, served by this process, and waits until the guest has connected. Of `serve` alone. */
  readonly attach: { readonly params: AttachParams; readonly result: Attached };
  /** Asks the guest to close the disk, waits for it, and removes the disk's nodes. */
  readonly detach: {
    readonly params: DeviceParams & { readonly force?: boolean; readonly timeoutMs?: number };
    readonly result: Nothing;
  };
  /** Adopts the size of the image, after making it `sizeBytes` large if that is given. Sizes in sectors of 512 bytes. */
  readonly resize: {
    readonly params: DeviceParams & { readonly sizeBytes?: number; readonly timeoutMs?: number };
    readonly result: { readonly before: number; readonly now: number };
  };
  /**
   * Gives the disk another image under its guest, which must find the same data there. `before` and `now` describe the
   * images for people; sizes in sectors of 512 bytes. Requests waited for `pausedMs`; absent for a disc. With `releaseFirst`
   * the present image is closed first if the new one is locked, and then its lock is waited for.
   */
  readonly swap: {
    readonly params: DeviceParams & {
      readonly image: string;
      readonly timeoutMs?: number;
      readonly releaseFirst?: boolean;
    };
    readonly result: Exchanged;
  };
  /**
   * Begins to copy the disk, which a storage daemon serves, to another image; once all is copied, the disk goes on with
   * that one. At the switch-over requests wait for `timeoutMs` at most. Answers once it has begun: see `jobs`.
   */
  readonly mirror: {
    readonly params: DeviceParams & {
      readonly image: string;
      readonly timeoutMs?: number;
      readonly bytesPerSecond?: number;
    };
    readonly result: BegunJob;
  };
  /** Changes the limits that are named, keeps them for the next process, and answers with all. */
  readonly limit: {
    readonly params: DeviceParams & { readonly limits?: Limits };
    /** `by`: which of the disk's own filters has the limits, for people. Absent: they are in front of all filters. */
    readonly result: { readonly limits: AllLimits; readonly by?: string };
  };
  /** Changes the disk's share of its thread, if one is given, keeps it likewise, and answers with the present one. */
  readonly weight: {
    readonly params: DeviceParams & { readonly weight?: number };
    readonly result: { readonly weight: number };
  };
  /** Empties a CD-ROM drive, then puts the disc in that `params` names, if it does. The time is for each. */
  readonly disc: {
    readonly params: DeviceParams & { readonly params?: string; readonly timeoutMs?: number };
    readonly result: { readonly sectors?: number };
  };
  /** Shows a disk as it is now, read-only, while the guest goes on. */
  readonly export: {
    readonly params: ExportParams;
    readonly result: Entering & { readonly uri: string; readonly sizeBytes: number; readonly taken: string };
  };
  /** Answers once the export of the disk has ended: why, and whether its readers can have lost something. */
  readonly exportEnded: {
    readonly params: DeviceParams;
    readonly result: { readonly reason: string; readonly failed: boolean };
  };
  /** Ends the export of the disk. */
  readonly endExport: { readonly params: DeviceParams; readonly result: Nothing };
  /** The jobs of the process's disks, those that are over too; of one device, or the one of that id. */
  readonly jobs: {
    readonly params: DevicesParams & { readonly id?: string };
    readonly result: { readonly jobs: readonly JobReport[] };
  };
  /** Starts a backup, and answers once it has begun. */
  readonly backup: { readonly params: BackupParams; readonly result: BegunJob };
  /** Ends a job, and answers with its end. */
  readonly jobCancel: { readonly params: { readonly id: string }; readonly result: { readonly job: JobReport } };
  /**
   * Takes a snapshot of all of these disks at one instant; one storage daemon must have them. With `keep`, the oldest
   * snapshots of each that has more are then given up, one after the other: `jobs` are the first, once they have begun, and
   * `warnings` say why others have not.
   */
  readonly snapshotCreate: {
    readonly params: {
      readonly devices: readonly string[];
      readonly snapshot: string;
      readonly keep?: number;
      readonly bytesPerSecond?: number;
    };
    readonly result: {
      readonly disks: readonly (DeviceParams & TakenSnapshot & Entering)[];
      readonly pauseMs: number;
      readonly jobs: readonly JobReport[];
      readonly warnings: readonly string[];
    };
  };
  /** The snapshots of a disk, the newest first. */
  readonly snapshots: { readonly params: DeviceParams; readonly result: SnapshotChain };
  /**
   * Begins to merge snapshots into the image below them: the newest one, or all from the newest to the one that is named.
   * If the job fails, or is cancelled, all stay.
   */
  readonly snapshotCommit: {
    readonly params: DeviceParams & { readonly snapshot?: string; readonly bytesPerSecond?: number };
    readonly result: { readonly job: JobReport };
  };
  /**
   * Begins to give up one snapshot and to keep the others: what was written from it to the next one is merged into the image
   * below. If the job fails, or is cancelled, all others stay.
   */
  readonly snapshotDelete: {
    readonly params: DeviceParams & { readonly snapshot: string; readonly bytesPerSecond?: number };
    readonly result: { readonly job: JobReport };
  };
  /** Where the visit of a raw disk in its storage daemon stands, once the disk neither enters nor leaves. */
  readonly daemonVisit: { readonly params: DeviceParams; readonly result: VisitState };
  /** Sets the level of the process's own log if one is given, and answers with the present one. */
  readonly logLevel: { readonly params: { readonly level?: LogLevel }; readonly result: { readonly level: LogLevel } };
}

/** The name of a method. */
export type Method = keyof Methods;

/** What every event has. */
interface EventBase {
  /** The wall clock, in ISO 8601 with milliseconds. */
  readonly time: string;
}

/** The same of an event of a device. */
interface DeviceEventBase extends EventBase {
  /** Its label. */
  readonly device: string;
}

/** News of a serving process: the parameters of the notification `event`. */
export type ControlEvent =
  | (DeviceEventBase & { readonly event: "added"; readonly report: DeviceReport })
  | (DeviceEventBase & { readonly event: "state"; readonly backendState: string; readonly frontendState: string })
  | (DeviceEventBase & { readonly event: "error"; readonly error: string })
  /** A job of the disk has begun, has come further, or is over. */
  | (DeviceEventBase & { readonly event: "job"; readonly job: JobReport })
  /** Another reactor serves the ring of that number. */
  | (DeviceEventBase & {
    readonly event: "moved";
    readonly queue: number;
    readonly from: number;
    readonly to: number;
  })
  | (DeviceEventBase & {
    readonly event: "connected" | "disconnected" | "error-cleared" | "latched" | "latch-cleared" | "removed";
  })
  | (EventBase & { readonly event: "log"; readonly level: LogLevel; readonly line: string })
  /** The last event of a connection. */
  | (EventBase & { readonly event: "end"; readonly reason: string });

/** The parameters of the notification `progress`: how far the request with this id is. */
export interface ProgressParams {
  readonly id: RequestId;
  readonly text: string;
}

/** As the client chose it. */
export type RequestId = string | number | null;

/** JSON-RPC's codes, and one for each kind of our errors. */
export const ERROR_CODE = {
  parse: -32700,
  request: -32600,
  method: -32601,
  usage: -32602,
  internal: -32603,
  "failed": -32001,
  "not-found": -32003,
  "timeout": -32004,
  "hypervisor": -32005,
} as const satisfies Readonly<Record<ErrorKind | "parse" | "request" | "method" | "internal", number>>;

/** The member `error` of an answer. */
export interface ErrorObject {
  readonly code: number;
  readonly message: string;
  /** Absent for a defect, and for a message that breaks the protocol. */
  readonly data?: { readonly kind: ErrorKind; readonly remedy?: string };
}

/** A line of the server. */
export type ServerMessage =
  | { readonly jsonrpc: "2.0"; readonly id: RequestId; readonly result: unknown }
  | { readonly jsonrpc: "2.0"; readonly id: RequestId; readonly error: ErrorObject }
  | { readonly jsonrpc: "2.0"; readonly method: "event"; readonly params: ControlEvent }
  | { readonly jsonrpc: "2.0"; readonly method: "progress"; readonly params: ProgressParams };

/** A line of the client. */
export interface ClientMessage {
  readonly jsonrpc: "2.0";
  readonly id: RequestId;
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
}

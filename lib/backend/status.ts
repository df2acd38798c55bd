/**
 * The status of a served device: plain data for tables, JSON and metrics. Reading it changes
 * nothing.
 */

import type { QueueStats } from "../dataplane/stats.ts";
import type { DiskFigures } from "../figures/figures.ts";
import type { DomId } from "../hypervisor.ts";
import type { AllLimits } from "../storage/filter/limits.ts";

/**
 * A device at one moment, without what it did: cheap to make, however busy it is. Clients of the control socket get it, so
 * docs/control.md names each member.
 */
export interface DeviceReport {
  /** `vbd3/5/51712`: kind, domid, virtual device. */
  readonly label: string;
  /** The backend's directory in xenstore. */
  readonly backendPath: string;
  /** The directory below `backend/`. */
  readonly kind: string;
  /** The guest. */
  readonly domain: DomId;
  /** The guest's name, as it was when one of the states changed last; absent if it has none. */
  readonly guest?: string;
  /** The virtual device number. */
  readonly vdev: number;
  /** The virtual device's name, such as `xvda`. */
  readonly name: string;
  /** Our state as last seen in xenstore, by name; `gone` where there is no node. */
  readonly backendState: string;
  /** The guest's, likewise; `domain gone` if xenstored does not know its domain any more. */
  readonly frontendState: string;
  /** This process has the device; another one, or none yet, otherwise. */
  readonly owned: boolean;
  /** This process serves its ring. */
  readonly connected: boolean;
  /** The open image, described for people; absent while none is open. */
  readonly image?: string;
  /** The reactor that serves each of its rings, by number; absent while there are none. They can change. */
  readonly reactors?: readonly number[];
  /** The last error that was not put right. */
  readonly error?: string;
  /** What its storage has not done yet: `open image raw:/a.img: no answer for 7 s`. Absent: nothing is waited for. */
  readonly waitsFor?: readonly string[];
  /** A flush failed: writes are refused until the operator attaches the disk again. */
  readonly latched: boolean;
  /** Its share of a reactor beside others, 1 to 1000. */
  readonly weight: number;
  /** What is limited, with all members, 0 for none. Absent: nothing is. */
  readonly limits?: AllLimits;
}

/** A device at one moment. To make one takes some hundred microseconds: all its histograms are read. */
export interface DeviceStatus extends DeviceReport {
  /** Counters of all rings together. */
  readonly totals: QueueStats;
  /** Counters of each ring the device has had since it was first seen. */
  readonly queues: readonly QueueStats[];
  /** Durations of its requests, over all rings, by operation. */
  readonly latency: DiskFigures["latency"];
  /** Nanoseconds in which it had a request in flight, up to {@linkcode atMs}. */
  readonly busyNs: number;
  /** When the counters were read: milliseconds of the data plane's clock. */
  readonly atMs: number;
}

/** A device that had not ended when its process stopped waiting for it. */
export interface StuckDevice {
  /** `vbd3/5/51712`: kind, domid, virtual device. */
  readonly label: string;
  /** What was not done, as after "Cannot": `close image /a.img: no answer for 20 s`. */
  readonly reason: string;
}

/**
 * Chooses the kind of a run, once at its start: how many disks of which kind, the settings of the backend, how hostile
 * guests are, and which faults strike.
 */

import { DEFAULT_SETTINGS, type DeviceSettings } from "../../lib/backend/settings.ts";
import { DiskWatch } from "./disk_watch.ts";
import type { Run } from "./run.ts";
import { SimulatedDisk } from "./simulated_disk.ts";

/** The kind of a run. */
interface Profile {
  readonly disks: readonly DiskWatch[];
  readonly settings: DeviceSettings;
  /** The backend keeps journals. */
  readonly journals: boolean;
  /** Of 1000 requests or handshakes of guests, how many are bad. */
  readonly hostility: number;
  /** Of 1000 steps, how many disturb: guests die, processes are killed, power fails. */
  readonly unrest: number;
  /** All promises settle after each step; else a step may come between them. */
  readonly patient: boolean;
}

/** Chooses a profile, and the faults of the run. */
export function chooseProfile(run: Run): Profile {
  const { decisions } = run;
  const disks = Array.from({ length: decisions.between(1, 2) }, (_, index) => chooseDisk(run, index));
  const maxRequests = decisions.pick([7, 16, 32, 1, 2]);
  const settings: DeviceSettings = {
    ...DEFAULT_SETTINGS,
    grants: decisions.pick(["copy", "persistent", "map", "map-each"]),
    maxPersistentGrants: decisions.pick([1056, 4]),
    maxRequests,
    // Their product determines the memory of a ring.
    maxIndirectSegments: maxRequests > 16 ? 0 : decisions.pick([0, 16, 40]),
    maxRingPageOrder: decisions.pick([0, 1, 3]),
    maxQueues: decisions.pick([1, 2, 3]),
    defaultProtocol: decisions.pick(["x86_64-abi", "x86_32-abi"]),
  };
  run.faults.choose();
  return {
    disks,
    settings,
    journals: !decisions.chance(200),
    hostility: decisions.pick([0, 30, 200]),
    unrest: decisions.pick([0, 3, 10, 40]),
    patient: !decisions.chance(300),
  };
}

function chooseDisk(run: Run, index: number): DiskWatch {
  const { decisions } = run;
  const logicalSectorBytes = decisions.chance(150) ? 4096 : 512;
  const sectors = decisions.pick([24, 24, 64, 160]);
  const readOnly = decisions.chance(100);
  const sized = { sectors, logicalSectorBytes, physicalSectorBytes: 4096, readOnly };
  const granularityBytes = decisions.pick([0, 512, 4096]);
  const discard = { granularityBytes, alignmentBytes: granularityBytes === 4096 ? 1024 : 0, secure: false };
  const properties = granularityBytes === 0 || readOnly ? sized : { ...sized, discard };
  return new DiskWatch(new SimulatedDisk(`disk-${index}`, properties, run), run);
}

/**
 * What the disks of all serving processes of this host did: their figures, asked through the control sockets.
 */

import { SYSTEM_CLOCK } from "../clock.ts";
import type { DiskFigures } from "../figures/figures.ts";
import type { ControlClient } from "./client.ts";
import { ASK_MS, askEach, devicesOf, hostControlDirectory, type LiveDevice, type NoteSilent } from "./serving.ts";

/** A device that a process has, and what it did. */
export interface LiveFigures extends LiveDevice {
  readonly figures: DiskFigures;
  /** An earlier reading, if two were asked for and the device was there. */
  readonly earlier?: DiskFigures;
}

/** How disks are read. */
export interface ReadingOptions {
  /** Read each process twice, so many milliseconds apart. Absent: once. */
  readonly apartMs?: number;
  /** Ends that pause early. */
  readonly signal?: AbortSignal;
  /** Of the sockets. Default: that of this host. */
  readonly directory?: string;
  readonly silent?: NoteSilent;
}

/** The devices with their figures. A process that does not answer holds nobody up for longer than a second. */
export async function liveFigures(options: ReadingOptions = {}): Promise<readonly LiveFigures[]> {
  const { apartMs, signal, directory = hostControlDirectory(), silent } = options;
  const found = await askEach(directory, async (client, process) => {
    const devices = await devicesOf(client, process);
    const earlier = apartMs === undefined || devices.length === 0 ? undefined : await figuresOf(client);
    if (apartMs !== undefined && earlier !== undefined) await SYSTEM_CLOCK.sleep(apartMs, signal);
    const now = await figuresOf(client);
    return devices.flatMap((device): LiveFigures[] => {
      const [figures, before] = [now.get(device.report.label), earlier?.get(device.report.label)];
      return figures === undefined ? [] : [{ ...device, figures, ...(before && { earlier: before }) }];
    });
  }, silent);
  return found.flat();
}

/** By the devices' labels. */
async function figuresOf(client: ControlClient): Promise<ReadonlyMap<string, DiskFigures>> {
  const { devices } = await client.call("stats", {}, { timeoutMs: ASK_MS });
  return new Map(devices.map(({ device, figures }) => [device, figures]));
}

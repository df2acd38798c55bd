/**
 * What the disks of all serving processes of this host did: their figures, asked through the control sockets.
 */

import type { DiskFigures } from "../figures/figures.ts";
import { ASK_MS, askEach, devicesOf, hostControlDirectory, type LiveDevice } from "./serving.ts";

/** A device that a process has, and what it did. */
export interface LiveFigures extends LiveDevice {
  readonly figures: DiskFigures;
}

/** The devices with their figures, as {@linkcode liveDevices} finds them. */
export async function liveFigures(directory = hostControlDirectory()): Promise<readonly LiveFigures[]> {
  const found = await askEach(directory, async (client, process) => {
    const devices = await devicesOf(client, process);
    const answer = await client.call("stats", {}, { timeoutMs: ASK_MS });
    const figures = new Map(answer.devices.map((each) => [each.device, each.figures]));
    return devices.flatMap((device): LiveFigures[] => {
      const own = figures.get(device.report.label);
      return own === undefined ? [] : [{ ...device, figures: own }];
    });
  });
  return found.flat();
}

/**
 * Measures what a hostile guest costs its neighbour on the same reactor: requests of the neighbour per second of CPU
 * time of the reactor, alone and beside a ring that is always full of bad requests. Only the reactor's turns are timed.
 */

import process from "node:process";
import { InlineDataPlane } from "../../lib/dataplane/inline_dataplane.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { Guest } from "./neighbours.ts";
import type { WireRequest } from "./wire.ts";

/** Result of a measurement. */
export interface Share {
  /** Requests of the neighbour that were answered beside the bad ones. */
  readonly good: number;
  /** Requests of the neighbour per second of the reactor's CPU time. */
  readonly alone: number;
  readonly beside: number;
  /** Bad requests that were answered in the same time. */
  readonly bad: number;
  /** Characters that were logged. */
  readonly logged: number;
}

/** Bad requests of all kinds. */
const BAD: readonly ((guest: Guest) => WireRequest)[] = [
  (guest) => guest.request(0, { sector: 1n << 60n }),
  (guest) => guest.request(1, { segments: [] }),
  (guest) => guest.request(99),
  (guest) => guest.request(0, { count: 255 }),
  (guest) => guest.request(1, { segments: [{ gref: 1023, first: 0, last: 7 }] }),
  (guest) => guest.request(0, { segments: [{ gref: guest.data.refs[0]!, first: 7, last: 0 }] }),
];

/** In each round serves the neighbour `requests` requests alone, then as many beside bad ones. */
export async function measureShare(requests: number, rounds: number): Promise<Share> {
  const machine = createMachine({ memoryBytes: 64 * 2 ** 20 });
  const lines: string[] = [];
  const plane = new InlineDataPlane({
    platform: openSimulatedPlatform(machine, 0),
    warn: (line) => lines.push(line),
  });
  const [good, bad] = [await open(plane, machine, 1), await open(plane, machine, 2)];
  const totals = { aloneMs: 0, besideMs: 0, bad: 0, next: 0 };
  const fill = (guest: Guest, make: () => WireRequest): void => {
    guest.takeAnswers();
    const free = guest.free;
    guest.put(...Array.from({ length: free }, make));
  };
  const serve = (beside: boolean): number => {
    let ms = 0;
    for (const end = good.answered + requests; good.answered < end;) {
      fill(good, () => good.request(0));
      if (beside) fill(bad, () => BAD[totals.next++ % BAD.length]!(bad));
      const start = cpuMs();
      plane.turn();
      ms += cpuMs() - start;
    }
    return ms;
  };
  for (let round = 0; round <= rounds; round++) {
    const before = bad.answered;
    const [alone, beside] = [serve(false), serve(true)];
    if (round === 0) continue; // warms up
    totals.bad += bad.answered - before;
    totals.aloneMs += alone;
    totals.besideMs += beside;
  }
  const seconds = (ms: number): number => rounds * requests / (ms / 1000);
  return {
    good: rounds * requests,
    alone: seconds(totals.aloneMs),
    beside: seconds(totals.besideMs),
    bad: totals.bad,
    logged: lines.join("\n").length,
  };
}

/** CPU time of this process so far, in milliseconds. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

async function open(plane: InlineDataPlane, machine: SharedArrayBuffer, domain: number): Promise<Guest> {
  const disk = await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
  const guest = new Guest(machine, domain as DomId, "x86_64-abi", disk);
  await guest.connect(plane, "copy");
  return guest;
}

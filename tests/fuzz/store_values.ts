/**
 * Fuzzing with xenstore values in a guest's frontend directory. The negotiation alone must return parameters in range
 * or a readable error; a whole device must stay alive, release everything, and connect once the nodes are right.
 */

import { XenblkError } from "../../lib/errors.ts";
import { Random } from "../../lib/guest/random.ts";
import { printable } from "../../lib/log.ts";
import { BASIC_OFFER } from "../../lib/xenbus/features.ts";
import { ABI_NAMES } from "../../lib/blkif/abi.ts";
import { type FrontendParameters, readFrontend } from "../../lib/xenbus/negotiate.ts";
import type { DeviceAddress } from "../../lib/xenbus/paths.ts";
import { parseState } from "../../lib/xenbus/states.ts";
import { FAST_CLOCK, Rig, RING_NODES, steps, until } from "../backend/rig.ts";

const NODES = [
  "protocol",
  "ring-ref",
  "ring-ref0",
  "ring-ref1",
  "ring-ref15",
  "ring-page-order",
  "num-ring-pages",
  "event-channel",
  "multi-queue-num-queues",
  "queue-0/ring-ref",
  "queue-0/event-channel",
  "queue-1/ring-ref",
  "queue-1/event-channel",
  "queue-1/ring-ref0",
  "feature-persistent",
  "feature-large-sector-size",
];

const ODD_VALUES = [
  "",
  " ",
  "0",
  "-1",
  "+1",
  "1 ",
  " 1",
  "01",
  "1.0",
  "1e1",
  "0x1",
  "1\n",
  "\n",
  "١",
  "¹",
  "4294967295",
  "4294967296",
  "9007199254740993",
  "18446744073709551616",
  "NaN",
  "Infinity",
  "null",
  "undefined",
  "true",
  "__proto__",
  "constructor",
  "toString",
  "../../../0",
  "%s%n",
  "\x1b[2J\x1b]0;x\x07",
  "\u202egnp.exe",
  "{x}",
  "$(reboot)",
  "x86_64-abi ",
  "X86_64-ABI",
  "a".repeat(2000),
  "9".repeat(300),
];

function value(random: Random): string {
  if (random.chance(0.45)) return random.pick(ODD_VALUES);
  if (random.chance(0.2)) return random.pick(ABI_NAMES);
  if (random.chance(0.1)) {
    return Array.from({ length: random.below(20) }, () => String.fromCharCode(random.between(1, 0x2fff))).join("");
  }
  return String(random.chance(0.7) ? random.below(20) : random.next());
}

/** Reads `runs` random frontends. Returns how many were accepted; throws Error at the first wrong result. */
export function fuzzNegotiation(seed: number, runs: number): number {
  const random = new Random(seed);
  let accepted = 0;
  for (let run = 0; run < runs; run++) {
    const nodes = new Map<string, string>();
    const valid = random.chance(0.5);
    if (valid) { for (const [name, text] of Object.entries(RING_NODES)) nodes.set(name, text); }
    for (let n = random.below(valid ? 3 : NODES.length); n > 0; n--) nodes.set(random.pick(NODES), value(random));
    const offer = { ...BASIC_OFFER, maxRingPageOrder: random.below(5), maxQueues: random.between(1, 8) };
    try {
      const options = { frontendPath: "/local/domain/5/device/vbd/51712", defaultProtocol: ABI_NAMES[0], offer };
      checkParameters(readFrontend((name) => nodes.get(name), options), offer);
      accepted++;
    } catch (error) {
      if (error instanceof XenblkError && readable(error.message)) continue;
      throw new Error(`seed ${seed}, run ${run}: ${error} for ${JSON.stringify([...nodes])}`, { cause: error });
    }
    parseState(value(random));
  }
  return accepted;
}

function readable(message: string): boolean {
  return message.length < 400 && printable(message) === message && message.startsWith("Cannot connect");
}

function checkParameters(
  { abi, queues }: FrontendParameters,
  offer: { maxRingPageOrder: number; maxQueues: number },
): void {
  if (!ABI_NAMES.includes(abi)) throw new Error(`unknown ABI ${abi}`);
  if (queues.length < 1 || queues.length > offer.maxQueues) throw new Error(`${queues.length} queues`);
  for (const { ringRefs, eventChannel } of queues) {
    if (!Number.isInteger(Math.log2(ringRefs.length)) || ringRefs.length > 2 ** offer.maxRingPageOrder) {
      throw new Error(`${ringRefs.length} ring pages`);
    }
    for (const number of [...ringRefs, eventChannel]) {
      if (!(Number.isInteger(number) && number >= 0 && number <= 0xffff_ffff)) throw new Error(`number ${number}`);
    }
    if (eventChannel === 0) throw new Error("event channel 0");
  }
}

/** Counts of a run. */
interface DeviceOutcome {
  readonly changes: number;
  readonly connections: number;
  readonly lines: number;
}

/** A guest writes `changes` sets of random values into its directory. Rejects at the first wrong reaction. */
export async function fuzzDevice(seed: number, changes: number): Promise<DeviceOutcome> {
  const random = new Random(seed);
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve({}, { clock: FAST_CLOCK });
  await rig.backendReaches(device, 2);
  for (let change = 0; change < changes; change++) {
    if (random.chance(0.15)) await reconnects(rig, device, random);
    const nodes: Record<string, string> = random.chance(0.4) ? { ...RING_NODES } : {};
    for (let n = random.below(3); n > 0; n--) nodes[random.pick(NODES)] = value(random);
    if (random.chance(0.7)) nodes["state"] = random.chance(0.8) ? String(random.between(1, 6)) : value(random);
    rig.guestWrites(device, nodes);
    if (random.chance(0.1)) rig.toolstack.remove(`/local/domain/5/device/vbd/${device.vdev}/${random.pick(NODES)}`);
    if (random.chance(0.02)) rig.plane.open.at(-1)?.stop("the frontend's index is impossible");
    await pause(rig, device, random);
  }
  await recovers(rig, device, seed);
  return { changes, connections: rig.plane.queues.length, lines: rig.lines.length };
}

/** The guest closes and connects again, sometimes faster than the backend follows. */
async function reconnects(rig: Rig, device: DeviceAddress, random: Random): Promise<void> {
  for (const state of ["6", "1", "3"]) {
    for (const name of state === "1" ? NODES : []) {
      rig.toolstack.remove(`/local/domain/5/device/vbd/${device.vdev}/${name}`);
    }
    rig.guestWrites(device, { ...RING_NODES, state });
    await pause(rig, device, random);
  }
}

/** The backend keeps up, or gets a little time, or none. */
async function pause(rig: Rig, device: DeviceAddress, random: Random): Promise<void> {
  if (random.chance(0.5)) await rig.looked(device);
  await steps(random.below(30));
}

/** The guest closes, corrects all nodes, and must be able to connect. */
async function recovers(rig: Rig, device: DeviceAddress, seed: number): Promise<void> {
  const directory = `/local/domain/5/device/vbd/${device.vdev}`;
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  await until(`seed ${seed}: rings and disks are released`, () => rig.plane.open.length === 0 && rig.openDisks === 0);
  for (const name of NODES) rig.toolstack.remove(`${directory}/${name}`);
  rig.guestWrites(device, { state: "1" });
  await rig.backendReaches(device, 2);
  await rig.frontend(device).connect();
  if (rig.backend(device, "error") !== undefined) throw new Error(`seed ${seed}: the error node stays`);
  for (const line of rig.lines) {
    if (line.length > 1000) throw new Error(`seed ${seed}: a log line of ${line.length} characters`);
  }
}

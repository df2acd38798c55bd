/**
 * Many guest domains in one process, and the toolstack that attaches their disks: for tests with more disks than there is
 * memory for a process per guest. It obeys orders as guest_process.ts does; crowd.ts sends them. A handle of the
 * stand-in libraries acts for the domain that the environment names when it is opened.
 */

import { openNativePlatform } from "../../../ffi/platform.ts";
import { type FrontRing, RequestFields, ResponseFields } from "../../../lib/blkif/front_ring.ts";
import { errorText } from "../../../lib/errors.ts";
import type { DomId, EventChannels, EvtchnPort, Platform } from "../../../lib/hypervisor.ts";
import { Frontend } from "../../../lib/guest/frontend.ts";
import { attachDevice } from "../../../lib/toolstack/attach.ts";
import { detachDevice } from "../../../lib/toolstack/detach.ts";
import { backendKindPath, backendPath, type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { XenbusState } from "../../../lib/xenbus/states.ts";
import type { CrowdOrder } from "./crowd.ts";
import { sparseImage } from "./backend.ts";

const KIND = "vbd3";
const BACKEND = 0 as DomId;
const PATIENCE_MS = 300_000;
const LOOK_MS = 1;

const platform = openNativePlatform();
const store = platform.openXenstore();

/** One guest: its disks share a handle for events. */
class Domain {
  readonly platform: Platform;
  #events: EventChannels | undefined;

  constructor(readonly domid: DomId) {
    this.platform = Object.assign(Object.create(platform), {
      openGrantShares: () => {
        this.act();
        return platform.openGrantShares();
      },
    });
  }

  /** Handles that are opened next are this domain's. */
  act(): void {
    Deno.env.set("XENBLK_FAKE_DOMID", String(this.domid));
  }

  get events(): EventChannels {
    if (this.#events !== undefined) return this.#events;
    this.act();
    return this.#events = platform.openEventChannels(BACKEND);
  }

  bind(backend: DomId): EvtchnPort {
    return this.events.bindUnbound(backend);
  }

  unbind(port: EvtchnPort): void {
    this.events.unbind(port);
  }
}

/** One disk of one guest. */
class Disk {
  readonly #domain: Domain;
  readonly #frontend: Frontend;
  readonly #fields = new RequestFields();
  readonly #response = new ResponseFields();
  #ring: FrontRing | undefined;

  constructor(domain: Domain, readonly device: DeviceAddress) {
    this.#domain = domain;
    this.#frontend = new Frontend({
      platform: domain.platform,
      store,
      path: frontendPath(device),
      requests: 1,
      endpoint: domain,
      timeoutMs: PATIENCE_MS,
    });
  }

  async connect(): Promise<void> {
    const { ring, dataPages: { refs } } = await this.#frontend.connect();
    this.#ring = ring;
    this.#fields.segmentCount = 1;
    this.#fields.grefs[0] = refs[0]!;
    this.#fields.lastSectors[0] = 7;
  }

  /** Puts one read of 4 KiB on the ring. */
  ask(): void {
    this.#ring!.putRequest(this.#fields);
    if (this.#ring!.push()) this.#domain.events.notify(this.#frontend.connection!.port);
  }

  /** True: the read was answered. Throws if it failed. */
  isAnswered(): boolean {
    if (this.#ring!.unconsumedResponses() === 0) return false;
    this.#ring!.takeResponse(this.#response);
    if (this.#response.status !== 0) throw new Error(`a read of ${backendPath(this.device)} failed`);
    return true;
  }

  async detach(): Promise<void> {
    await detachDevice(store, this.device, { timeoutMs: PATIENCE_MS });
    await this.#frontend.closed;
    this.#ring = undefined;
  }
}

const disks: Disk[] = [];
const domains = new Map<number, Domain>();
/** By the backend's directory: when it was written, and when the backend had opened its image. */
const written = new Map<string, number>();
const offered = new Map<string, number>();
let allOffered = Promise.withResolvers<void>();

async function follow(): Promise<void> {
  for await (const path of store.watch(backendKindPath(BACKEND, KIND))) {
    const device = path.slice(0, -"/hotplug-status".length);
    if (!path.endsWith("/hotplug-status") || !written.has(device) || offered.has(device)) continue;
    if (store.read(path) !== "connected") continue;
    offered.set(device, performance.now());
    if (offered.size === written.size) allOffered.resolve();
  }
}

/** Attaches disks to each of the domains. Returns how many milliseconds after its nodes each was offered. */
async function attach({ first, domains: count, each, folder }: CrowdOrder): Promise<number[]> {
  allOffered = Promise.withResolvers();
  const added: Disk[] = [];
  for (let domid = first; domid < first + count; domid++) {
    const domain = domains.get(domid) ?? new Domain(domid as DomId);
    domains.set(domid, domain);
    for (let i = 0; i < each; i++) {
      const params = `aio:${sparseImage(folder, `${domid}-${disks.length + added.length}.img`, 2 ** 24)}`;
      const request = {
        domain: domain.domid,
        backendDomain: BACKEND,
        kind: KIND,
        params,
        readOnly: false,
        cdrom: false,
      };
      const device = attachDevice(store, request);
      written.set(backendPath(device), performance.now());
      added.push(new Disk(domain, device));
    }
    await new Promise((resolve) => setTimeout(resolve, 0)); // events of the watch
  }
  disks.push(...added);
  await allOffered.promise;
  return added.map(({ device }) => offered.get(backendPath(device))! - written.get(backendPath(device))!);
}

/** Connects those that are not, all at once. Returns how long that took. */
async function connect({ from }: CrowdOrder): Promise<number> {
  const beganMs = performance.now();
  await Promise.all(disks.slice(from).map((disk) => disk.connect()));
  return performance.now() - beganMs;
}

/** Until {@linkcode endReads}: each disk reads 4 KiB, and again some time after it was answered. */
let reading: Promise<number[]> | undefined;
let readingEnds = false;

/** Resolves with the milliseconds of each disk's longest read. */
async function readUntilEnd({ everyMs }: CrowdOrder): Promise<number[]> {
  const beganMs = performance.now();
  const askMs = disks.map((_, disk) => beganMs + (everyMs * disk) / disks.length);
  const longestMs = disks.map(() => 0);
  const isAsked = disks.map(() => false);
  for (let asked = 0; asked > 0 || !readingEnds;) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    const now = performance.now();
    for (let disk = 0; disk < disks.length; disk++) {
      if (isAsked[disk]) {
        if (!disks[disk]!.isAnswered()) continue;
        longestMs[disk] = Math.max(longestMs[disk]!, now - askMs[disk]!);
        isAsked[disk] = false;
        askMs[disk] = now + everyMs;
        asked--;
      } else if (now >= askMs[disk]! && !readingEnds) {
        askMs[disk] = now;
        isAsked[disk] = true;
        disks[disk]!.ask();
        asked++;
      }
    }
    if (readingEnds && now - beganMs > PATIENCE_MS) throw new Error(`${asked} reads were not answered`);
  }
  return longestMs;
}

function beginReads(order: CrowdOrder): void {
  readingEnds = false;
  reading = readUntilEnd(order);
  reading.catch(() => {}); // endReads reports it
}

async function endReads(): Promise<number[]> {
  readingEnds = true;
  return await reading!;
}

async function detach(): Promise<number> {
  const beganMs = performance.now();
  await Promise.all(disks.splice(0).map((disk) => disk.detach()));
  written.clear();
  offered.clear();
  return performance.now() - beganMs;
}

/** How many backends are Connected. */
function connected(): number {
  const states = disks.map(({ device }) => store.read(`${backendPath(device)}/state`));
  return states.filter((state) => state === String(XenbusState.Connected)).length;
}

async function obey(order: CrowdOrder): Promise<unknown> {
  switch (order.verb) {
    case "attach":
      return await attach(order);
    case "connect":
      return await connect(order);
    case "begin-reads":
      return beginReads(order);
    case "end-reads":
      return await endReads();
    case "connected":
      return connected();
    case "detach":
      return await detach();
  }
}

async function answer(order: CrowdOrder): Promise<void> {
  const say = (reply: unknown): number => Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(reply)}\n`));
  try {
    say({ id: order.id, result: await obey(order) ?? null });
  } catch (error) {
    say({ id: order.id, error: errorText(error) });
  }
}

void follow();
let rest = "";
for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + text).split("\n");
  rest = lines.pop()!;
  for (const line of lines) void answer(JSON.parse(line) as CrowdOrder);
}
Deno.exit(0);

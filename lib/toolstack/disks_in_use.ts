/**
 * The disks that backends of this domain have opened, of all guests and backend kinds, with what decides whether they
 * exclude another use of their image. Read from xenstore without stopping the event loop, as a host can have a thousand.
 */

import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import { XenblkError } from "../errors.ts";
import type { DomId, XenstoreOperations } from "../hypervisor.ts";
import { Turns } from "../turns.ts";
import { IMAGE_MODE_NODE } from "../xenbus/features.ts";
import { backendPath, type DeviceAddress } from "../xenbus/paths.ts";
import { parseState, XenbusState } from "../xenbus/states.ts";
import { readAll } from "../xenstore.ts";
import { addressAt, backendsByGuest } from "./list.ts";
import { type Medium, mediumAt, type PathLookups } from "./medium.ts";

/** A disk in xenstore whose image a backend has opened. */
export interface DiskInUse {
  readonly device: DeviceAddress;
  /** How the image is used: `r`, `w` or `w!`. */
  readonly mode: string;
  readonly path: string;
  /** The block device that blkback uses, as `major:minor` in hexadecimal. */
  readonly physical: string | undefined;
  /** The virtual machine of its guest. */
  readonly machine: Machine;
  /** What its path leads to; looked at once, and again if that was too long ago. */
  readonly medium: (lookups: PathLookups) => Promise<Medium | undefined>;
}

/** What was found at the path of a disk in use. */
class DiskMedium {
  #look: Promise<Medium | undefined> | undefined;
  #lookedAtMs = -Infinity;

  constructor(readonly path: string, readonly physical: string | undefined, readonly clock: Clock) {}

  get isFresh(): boolean {
    return this.clock.now() - this.#lookedAtMs < MEDIUM_MS;
  }

  async at(lookups: PathLookups): Promise<Medium | undefined> {
    if (this.#look === undefined) {
      this.#look = mediumAt(this.path, lookups);
      this.#lookedAtMs = this.clock.now();
      // What could not be looked at is looked at again by the next search.
      if (await this.#look === undefined) this.#lookedAtMs = -Infinity;
    }
    return await this.#look;
  }
}

type FoundDisk = Omit<DiskInUse, "medium">;

/** The paths in xenstore of a domain's virtual machine, and of the one that it is the device model of. */
export type Machine = readonly (string | undefined)[];

/** What precedes the path in xl's `key=value` form. */
const XL_FIELDS = /^(?:(?!target=)[a-z-]+(?:=[^,]*)?,)*target=/;
/** A URI or QEMU's options, with a format before them or without. */
const REMOTE = /^(?:[a-z][a-z0-9_-]*:)?(?:[a-z+]+:\/\/|rbd:|json:)/i;
/** How long reading the nodes of all disks may take: a thousand disks take one second on a busy host. */
const MOST_READING_MS = 10_000;

/**
 * After a reading, so many times its duration pass before the next one begins: a thousand disks that appear together would
 * else each have all others read.
 */
const PAUSE_OF_READING = 4;
const MOST_PAUSE_MS = 1_000;
/** Disks whose nodes are read with one wait. */
const DISKS_PER_STEP = 8;
/**
 * So long what a path led to counts, while its disk is in use with the same nodes: its backend has opened the image before
 * that. Else each reading had all paths looked at anew, each after a turn of a busy event loop.
 */
const MEDIUM_MS = 30_000;

/** Reads the disks in use; searches of one store at the same time share their work. Disposing it ends a pause. */
export class DisksInUse implements Disposable {
  readonly #clock: Clock;
  readonly #turns: Turns;
  #store: XenstoreOperations | undefined;
  #current: Promise<readonly DiskInUse[]> | undefined;
  #next: Promise<readonly DiskInUse[]> | undefined;
  /** Of the disks of the last reading, by the backend's directory. */
  #media = new Map<string, DiskMedium>();
  /** The next reading begins no sooner. */
  #notBeforeMs = -Infinity;
  readonly #over = new AbortController();

  /** `clock`: for tests. */
  constructor(clock: Clock = SYSTEM_CLOCK) {
    this.#clock = clock;
    this.#turns = new Turns(clock);
  }

  /**
   * The disks as they are at some moment after the call. Rejects with what the store throws, or with
   * {@linkcode XenblkError} if xenstored takes too long.
   */
  read(store: XenstoreOperations, backendDomain: DomId): Promise<readonly DiskInUse[]> {
    const begin = (): Promise<readonly DiskInUse[]> => {
      const reading = this.#read(store, backendDomain);
      this.#current = reading;
      this.#next = undefined;
      const over = (): void => {
        if (this.#current === reading) this.#current = undefined;
      };
      reading.then(over, over);
      return reading;
    };
    if (this.#store !== store) this.#current = this.#next = undefined;
    this.#store = store;
    if (this.#next === undefined && this.#current === undefined && this.#pauseLeftMs <= 0) return begin();
    // A disk that was read already may be opened by now: who comes later needs another reading.
    return this.#next ??= this.#pause().then(begin);
  }

  [Symbol.dispose](): void {
    this.#over.abort();
  }

  get #pauseLeftMs(): number {
    return this.#notBeforeMs - this.#clock.now();
  }

  /** Resolves when the next reading may begin. */
  async #pause(): Promise<void> {
    await this.#current?.catch(() => {}); // who asked for it is told
    if (this.#pauseLeftMs > 0) await this.#clock.sleep(this.#pauseLeftMs, this.#over.signal);
  }

  async #read(store: XenstoreOperations, backendDomain: DomId): Promise<readonly DiskInUse[]> {
    const beganMs = this.#clock.now();
    try {
      return await this.#turns.collect(this.#steps(store, backendDomain));
    } finally {
      const endMs = this.#clock.now();
      this.#notBeforeMs = endMs + Math.min(PAUSE_OF_READING * (endMs - beganMs), MOST_PAUSE_MS);
    }
  }

  *#steps(store: XenstoreOperations, backendDomain: DomId): Generator<DiskInUse | undefined> {
    const endMs = this.#clock.now() + MOST_READING_MS;
    const machines = new Map<DomId, Machine>();
    const media = new Map<string, DiskMedium>();
    const machine = (domain: DomId): Machine => {
      const known = machines.get(domain) ?? machineOf(store, domain);
      machines.set(domain, known);
      return known;
    };
    for (const paths of backendsByGuest(store, backendDomain)) {
      for (let next = 0; next < paths.length; next += DISKS_PER_STEP) {
        if (this.#clock.now() > endMs) throw tooSlow();
        for (const disk of disksAt(store, paths.slice(next, next + DISKS_PER_STEP), machine)) {
          yield disk && { ...disk, medium: this.#medium(disk, media) };
        }
      }
      yield undefined;
    }
    this.#media = media;
  }

  /** The same as in the reading before, if its nodes are. */
  #medium({ device, path, physical }: FoundDisk, media: Map<string, DiskMedium>): DiskInUse["medium"] {
    const directory = backendPath(device);
    const known = this.#media.get(directory);
    const isSame = known?.isFresh && known.path === path && known.physical === physical;
    const medium = isSame ? known : new DiskMedium(path, physical, this.#clock);
    media.set(directory, medium);
    return (lookups) => medium.at(lookups);
  }
}

/** See {@linkcode Machine}. */
export function machineOf(store: XenstoreOperations, domain: DomId): Machine {
  const target = store.read(`/local/domain/${domain}/target`);
  const paths = [`/local/domain/${domain}/vm`, ...(target === undefined ? [] : [`/local/domain/${target}/vm`])];
  // While a domain is rebooted or restored, xl appends -1 to its path.
  return paths.map((path) => store.read(path)?.replace(/^(\/vm\/[0-9a-f-]{36})-[0-9]+$/i, "$1"));
}

/** The nodes of a backend that decide, in the order in which {@linkcode diskInUse} takes their values. */
const NODES = ["frontend", "params", "physical-device", "hotplug-status", "state", IMAGE_MODE_NODE, "mode"];

function* disksAt(
  store: XenstoreOperations,
  paths: readonly string[],
  machine: (domain: DomId) => Machine,
): Generator<FoundDisk | undefined> {
  const values = readAll(store, paths.flatMap((path) => NODES.map((name) => `${path}/${name}`)));
  for (let disk = 0; disk < paths.length; disk++) {
    yield diskInUse(paths[disk]!, values.slice(disk * NODES.length, (disk + 1) * NODES.length), machine);
  }
}

function diskInUse(
  backend: string,
  [frontend, params, physical, hotplugStatus, state, imageMode, mode]: readonly (string | undefined)[],
  machine: (domain: DomId) => Machine,
): FoundDisk | undefined {
  const device = addressAt(backend, frontend);
  const path = pathOfParams(params ?? "");
  if (device === undefined || path === undefined || !isInUse(physical, hotplugStatus, state)) return undefined;
  return {
    device,
    mode: imageMode ?? mode ?? "",
    path,
    physical,
    machine: machine(device.frontendDomain),
  };
}

/**
 * Whether a backend has opened the image. Nodes of a disk that was refused, waits, or is not served yet must not keep its
 * legitimate user from it: blkback's script writes physical-device and hotplug-status, this backend hotplug-status, and
 * QEMU goes to Connected.
 */
function isInUse(
  physical: string | undefined,
  hotplugStatus: string | undefined,
  state: string | undefined,
): boolean {
  return physical !== undefined || hotplugStatus === "connected" || parseState(state) === XenbusState.Connected;
}

/**
 * The path in a node `params`: `path`, `format:path`, `...,target=path`, or the name of a device in /dev; undefined if
 * there is none. What a URI or `json:` names is not compared: QEMU locks local files itself.
 */
function pathOfParams(params: string): string | undefined {
  const named = params.replace(XL_FIELDS, "");
  const target = named.startsWith("/") ? named : named.replace(/^[a-z][a-z0-9+_-]*:/i, "");
  if (target === "" || REMOTE.test(named)) return undefined;
  return target.startsWith("/") ? target : `/dev/${target}`;
}

function tooSlow(): XenblkError {
  const seconds = MOST_READING_MS / 1000;
  return new XenblkError(
    `Cannot find out whether another guest uses the image: reading its disks took over ${seconds} s`,
    {
      remedy: "check why xenstored is slow, then try again; a backend tries again by itself",
    },
  );
}

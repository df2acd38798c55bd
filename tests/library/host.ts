/**
 * A simulated host for tests of the library: one guest, with a frontend that connects to a disk as soon as its nodes
 * appear, and makes requests in this thread.
 */

import type { AttachOptions } from "../../lib/attach.ts";
import { SYSTEM_CLOCK } from "../../lib/clock.ts";
import { DiskModel } from "../../lib/guest/disk_model.ts";
import { Frontend } from "../../lib/guest/frontend.ts";
import { LoadDriver } from "../../lib/guest/load.ts";
import { type LoadOutcome, LoadProgress, type LoadSpec, loadTarget, MIXED_LOAD } from "../../lib/guest/load_types.ts";
import type { HostPlatform } from "../../lib/host_platform.ts";
import type { DomId, Platform, Xenstore, XenstoreOperations } from "../../lib/hypervisor.ts";
import { SILENT } from "../../lib/log.ts";
import { createMachine, type MachineUsage } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { SimulatedStore } from "../../lib/sim/xenstore.ts";
import type { ImageLocks } from "../../lib/storage/image/lock.ts";
import { waitFor } from "../../lib/toolstack/wait.ts";
import { frontendPath } from "../../lib/xenbus/paths.ts";
import { parseVdev } from "../../lib/xenbus/vdev.ts";

const DOM0 = 0 as DomId;
export const GUEST = 5 as DomId;
/** More than any step takes. */
export const PATIENCE_MS = 60_000;
/** Turns of a load before the event loop gets one. */
const TURNS_PER_EVENT_LOOP_TURN = 64;

/** A machine, its xenstore and a guest named `web`. */
export class SimulatedHost implements Disposable {
  readonly store = new SimulatedStore();
  readonly platform: HostPlatform;
  readonly #machine = createMachine();
  readonly #guests = new DisposableStack();

  /** `imageLocks` stand in for those that keep other processes from images. */
  constructor(imageLocks?: ImageLocks) {
    this.store.createGuest(GUEST, "web");
    const openXenstore = (): Xenstore => this.store.connect(DOM0);
    const host = { openXenstore, ...(imageLocks === undefined ? {} : { imageLocks }) };
    this.platform = Object.assign(openSimulatedPlatform(this.#machine, DOM0), host);
    // The directories that outlive a disk.
    using store = openXenstore();
    for (const path of ["/local/domain/0/backend", `/libxl/${GUEST}/device`, `/local/domain/${GUEST}/device/vbd`]) {
      store.makeDirectory(path);
    }
  }

  /** What attaching needs beside the image: this host, the guest, and no log. */
  options(image: string): AttachOptions & { readonly platform: HostPlatform } {
    return { platform: this.platform, domain: "web", image, timeoutMs: PATIENCE_MS, workers: 1, logger: SILENT };
  }

  /** The frontend of a disk of the guest; before it closes the disk it awaits `quiesce`. */
  guest(vdev: string, quiesce?: () => Promise<void>): Guest {
    const path = frontendPath({ frontendDomain: GUEST, vdev: parseVdev(vdev) });
    const platform = openSimulatedPlatform(this.#machine, GUEST);
    return this.#guests.use(new Guest(platform, this.store.connect(GUEST), path, quiesce));
  }

  /** The guest's sudden end. */
  endGuest(): void {
    this.#guests.dispose();
    this.store.releaseDomain(GUEST);
  }

  /** All that attaching could leave behind: nodes, pages, grants, ports, locks. */
  holdings(): { readonly nodes: string[]; readonly usage: MachineUsage; readonly journals: string[] } {
    using store = this.store.connect(DOM0);
    return {
      nodes: nodesBelow(store, "/"),
      usage: machineUsage(this.#machine),
      journals: this.platform.journals.names(),
    };
  }

  [Symbol.dispose](): void {
    this.#guests.dispose();
  }
}

/** A guest's use of one disk. */
export class Guest implements Disposable {
  readonly store: Xenstore;
  readonly #platform: Platform;
  readonly #path: string;
  readonly #frontend: Frontend;

  constructor(platform: Platform, store: Xenstore, path: string, quiesce?: () => Promise<void>) {
    this.store = store;
    this.#platform = platform;
    this.#path = path;
    this.#frontend = new Frontend({
      platform,
      store,
      path,
      timeoutMs: PATIENCE_MS,
      ...(quiesce === undefined ? {} : { quiesce }),
    });
  }

  /** The disk's size in sectors, as the guest knows it. */
  get sectors(): number {
    return Number(this.store.read(`${this.store.read(`${this.#path}/backend`)}/sectors`));
  }

  /** Resolves when the guest has closed the disk because its backend did. */
  get closed(): Promise<void> {
    return this.#frontend.closed;
  }

  /** Waits for the disk's nodes and connects. */
  async connect(): Promise<void> {
    const path = `${this.#path}/backend`;
    await waitFor(this.store, [path], () => this.store.read(path), { timeoutMs: PATIENCE_MS });
    await this.#frontend.connect();
  }

  /** Makes requests; `sectors` is the size that the guest takes the disk to have, if not the right one. */
  async load(spec: Partial<LoadSpec>, sectors?: number): Promise<LoadOutcome> {
    const target = loadTarget(this.#frontend.connection!);
    const disk = sectors === undefined ? target.disk : { ...target.disk, sectors };
    const driver = new LoadDriver({
      target: { ...target, disk },
      spec: { ...MIXED_LOAD, requests: 200, ...spec },
      platform: this.#platform,
      events: this.#frontend.events,
      model: DiskModel.create(disk.sectors, 1, "anything"),
      progress: new LoadProgress(),
    });
    while (!driver.finished) {
      for (let turn = 0; turn < TURNS_PER_EVENT_LOOP_TURN && driver.step(); turn++);
      // The backend's answers come from other threads; this one must let messages in meanwhile.
      await SYSTEM_CLOCK.sleep(driver.prepareToSleep() ? 0 : 1);
    }
    return driver.outcome();
  }

  [Symbol.dispose](): void {
    this.#frontend[Symbol.dispose]();
    this.store[Symbol.dispose]();
  }
}

function nodesBelow(store: XenstoreOperations, path: string): string[] {
  const below = (store.list(path) ?? []).toSorted().flatMap((name) =>
    nodesBelow(store, path === "/" ? `/${name}` : `${path}/${name}`)
  );
  return [path, ...below];
}

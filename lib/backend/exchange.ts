/**
 * The exchange of a disk's image under its guest. The new image is opened, checked and locked. Then the rings take no more
 * requests, finish those in flight, flush the old image and let go; they are opened on the new image, held; one transaction
 * names that in xenstore; and the rings go on. That transaction is the commit: whoever serves the disk after a crash finds
 * the old image, flushed and with all answered requests, before it, and the new one after it. No request is in flight then,
 * so no journal holds one. Whatever fails before the commit leads back to the old image. Where both images cannot be open
 * at a time, the old one is closed, and the new one opened, while the rings wait: also if whoever serves the old one has the
 * new one locked, and lets go of it once the old one is closed.
 */

import { unlessAborted } from "../abort.ts";
import type { Clock } from "../clock.ts";
import type { QueueHandle } from "../dataplane/types.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { Disk, EngineName } from "../storage/disk.ts";
import type { AllLimits } from "../storage/filter/limits.ts";
import { ImageBusyError } from "../storage/image/lock.ts";
import { isLockRefusal } from "../storage/qemu/explain.ts";
import { workOn } from "../storage/qemu/instant.ts";
import { isDisconnection } from "../xenstore.ts";
import { connectionOn, type DeviceParts } from "./connect.ts";
import type { DeviceDescription } from "./description.ts";
import type { DeviceNodes, Observation } from "./device_nodes.ts";
import {
  canBothBeOpen,
  checkExchangeable,
  checkFits,
  checkHeader,
  checkSameSize,
  lacks,
  physicalDevice,
} from "./exchange_rules.ts";
import { StayingFile } from "./in_daemon.ts";
import type { NamedImage } from "./named_image.ts";
import { refuseOtherGuest } from "./open_image.ts";
import type { Connection, OpenImage, RingPlace } from "./resource_types.ts";
import { openedOf } from "./ring_spec.ts";

/** A ring that has taken nothing lets go of its disk at once, unless its thread is busy. */
const UNUSED_MS = 60_000;
/** Between two attempts to open an image that others let go of. */
const RETRY_MS = 20;

/** What is asked for. */
export interface ExchangeRequest {
  /** The new value of the node `params`. Absent: the image stays, and `daemon` says who serves it from now on. */
  readonly params?: string;
  /** The guest's storage daemon, or not: then the engine of the settings. Only of an image that stays. */
  readonly daemon?: boolean;
  /** How long opening the image may take, and then, once more, how long the guest's requests may wait. */
  readonly timeoutMs: number;
  /** If others have the image locked, the present one is closed first, and then the lock is waited for. */
  readonly releaseFirst?: boolean;
  /**
   * Called once nothing is in flight and the present image is flushed; only then the new one can be opened. Absent: it is
   * opened before.
   */
  readonly finish?: (signal: AbortSignal) => Promise<void>;
}

/** A device whose image can be exchanged. */
export interface ExchangingDevice {
  /** One was asked for, and is not over. */
  readonly isExchanging: boolean;
  /** Rejects with {@linkcode XenblkError}; the guest is then served as before. */
  exchange(request: ExchangeRequest): Promise<Exchanged>;
}

/** What a process holds for a device, as those who work on its disk see it. */
export interface HeldDevice {
  /** What can be changed of it at any time. */
  readonly live: {
    /** Its share of a reactor. */
    readonly weight: { readonly value: number };
    /** All of its limits; 0 is none. */
    readonly limits: AllLimits;
    /** Which of its own filters has them, for people; undefined: they are in front of all filters. */
    readonly limitedBy: string | undefined;
  };
  /** Its open image, if there is one. */
  readonly image: {
    /** Behind its filters. */
    readonly disk: Disk;
    /** What the toolstack says of it. */
    readonly description: {
      /** The node of that name. */
      readonly params: string;
      /** The file or block device that the guest's storage daemon has for a while. Absent: it is served as the settings say. */
      readonly inDaemon?: string;
      /** Of the guest. */
      readonly guestUuid?: string;
    };
  } | undefined;
  /** The open rings. */
  readonly rings: readonly unknown[];
  /** Of the device's settings, whoever serves the image at present. */
  readonly engine: EngineName;
}

/** What became of it. */
export interface Exchanged {
  /** The image that the disk had, described for people. */
  readonly before: string;
  /** The one that it has. */
  readonly now: string;
  /** The size that it had, in sectors of 512 bytes. */
  readonly sectorsBefore: number;
  /** The size that it has. */
  readonly sectors: number;
  /** How long requests waited on the rings. Absent for a disc, which the guest sees change. */
  readonly pausedMs?: number;
}

/** How an exchange is carried out. */
export interface ExchangeContext {
  readonly device: DeviceParts;
  readonly nodes: DeviceNodes;
  readonly seen: Observation;
  readonly clock: Clock;
  /** The process ends. */
  readonly signal: AbortSignal;
  /** Nobody knows whether the commit reached xenstored: the disk goes on with the old image. */
  readonly doubt: (not: NamedImage, but: NamedImage) => void;
}

/** Carries it out. Rejects with {@linkcode XenblkError}; the old image then serves the guest. */
export async function exchangeImage(request: ExchangeRequest, context: ExchangeContext): Promise<Exchanged> {
  const { device, nodes, seen } = context;
  checkExchangeable(device, seen, request);
  const { params, daemon } = request;
  const named = nodes.describe(params ?? device.settings.image);
  if (named === undefined) throw new XenblkError("Cannot swap the image: the disk was removed");
  const { inDaemon: _before, ...description } = named;
  if (params === undefined) {
    const file = await StayingFile.of(device.resources.image!);
    const next = daemon === true ? { ...description, inDaemon: file.text } : description;
    return await new Exchange(request, context, next, file).run();
  }
  const exchange = new Exchange(request, context, description);
  return description.cdrom ? await exchange.changeDisc() : await exchange.run();
}

/** A new image that is open and fits. */
interface Candidate {
  readonly image: OpenImage;
  readonly lock: AsyncDisposable | undefined;
  readonly connection: Connection;
}

class Exchange {
  readonly #request: ExchangeRequest;
  readonly #context: ExchangeContext;
  readonly #description: DeviceDescription;
  readonly #old: OpenImage;
  readonly #connection: Connection;
  /** Of an image that stays. */
  readonly #file: StayingFile | undefined;
  #next: Candidate | undefined;

  constructor(request: ExchangeRequest, context: ExchangeContext, description: DeviceDescription, file?: StayingFile) {
    this.#request = request;
    this.#context = context;
    this.#description = description;
    this.#file = file;
    this.#old = context.device.resources.image!;
    this.#connection = context.device.resources.connection!;
  }

  async run(): Promise<Exchanged> {
    const { device, clock } = this.#context;
    const { finish, releaseFirst = false } = this.#request;
    await this.#checkNoWork();
    const { engine } = device.settings;
    const isOther = finish === undefined && this.#file === undefined;
    const apart = isOther && await canBothBeOpen(this.#old, this.#description, engine);
    await this.#file?.check();
    const named = await this.#nameOf();
    try {
      const first = apart
        ? await this.#within("open the image", (signal) => this.#openUnlessLocked(signal))
        : undefined;
      // The present image may be gone for good once it is closed.
      if (!apart && releaseFirst) await checkHeader(this.#old, this.#description, device.settings);
      if (first !== undefined) this.#next = first;
      const beganMs = clock.now();
      await this.#within("exchange the image", (signal) => this.#whileRingsWait(named, signal));
      const pausedMs = clock.now() - beganMs;
      const result = { ...this.#result(this.#next!.image), pausedMs };
      const pause = `requests waited for ${pausedMs.toFixed(1)} ms`;
      device.log.info(`the image is now ${result.now}, no longer ${result.before}: ${pause}`);
      return result;
    } catch (error) {
      const { image, lock } = this.#next ?? {};
      const open = [lock, image?.disk].filter((each) => each !== undefined);
      await device.resources.dispose("close the image that was not taken", open);
      throw error;
    }
  }

  /**
   * The disc is opened once, to see that it can be; the device then opens what the node names. A daemon has one disc of the
   * device at a time: then the present one is closed first, and whatever fails has the device open that again. The guest's
   * requests wait meanwhile.
   */
  async changeDisc(): Promise<Exchanged> {
    const { device: { resources, log, settings: { engine } }, nodes, seen } = this.#context;
    await this.#checkNoWork();
    const named = await this.#nameOf();
    const isAlone = this.#old.disk.daemon !== undefined && !await canBothBeOpen(this.#old, this.#description, engine);
    if (isAlone) await resources.release();
    const disk = await this.#within("open the disc", async (signal) => {
      if (!isAlone) return await this.#opened(signal);
      return (await unlessAborted(resources.openImage(this.#description), signal)).disk;
    });
    const result = this.#result({ disk, description: this.#description });
    if (!isAlone) await resources.dispose("close the disc", [disk]);
    if (!nodes.nameImage(seen, named)) throw changedMeanwhile();
    log.info(`the drive changes from ${result.before} to ${result.now}`);
    if (!isAlone) await resources.release();
    return result;
  }

  /** Refuses what would end with the old image. What begins later is refused by those who start it. */
  async #checkNoWork(): Promise<void> {
    const { daemon } = this.#old.disk;
    if (daemon === undefined || this.#request.finish !== undefined) return;
    // One that does not answer has to let go of the disk: that says more.
    const work = await daemon.run(({ execute }) => workOn(execute, daemon.prefix)).catch(() => undefined);
    if (work === undefined) return;
    throw new XenblkError(`Cannot swap the image of this disk: its ${work} is running`, {
      remedy: work === "export"
        ? "end it (`xenblk export DOMAIN VDEV --end`), or wait for its end"
        : "wait for it (`xenblk job list`), or cancel it (`xenblk job cancel`)",
    });
  }

  #result({ disk }: OpenImage): Exchanged {
    const { description: before, properties: { sectors: sectorsBefore } } = this.#old.disk;
    return { before, now: disk.description, sectorsBefore, sectors: disk.properties.sectors };
  }

  async #nameOf(): Promise<NamedImage> {
    const params = this.#request.params ?? this.#context.seen.params!;
    const physical = await physicalDevice(params);
    return { params, ...(physical && { physical }), inDaemon: this.#description.inDaemon };
  }

  /** Runs the step until it ends; its signal aborts when the time is over or the process ends. */
  async #within<T>(what: string, step: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { clock, signal } = this.#context;
    const { timeoutMs } = this.#request;
    const late = new AbortController();
    const over = new AbortController();
    void clock.sleep(timeoutMs, over.signal).then(() => {
      if (over.signal.aborted) return;
      late.abort(
        new XenblkError(`Cannot ${what}: that took longer than ${timeoutMs / 1000} s`, {
          kind: "timeout",
          remedy: "look at the storage of both images, or allow more time",
        }),
      );
    });
    try {
      return await step(AbortSignal.any([late.signal, signal]));
    } finally {
      over.abort();
    }
  }

  /** What comes too late is closed. */
  async #orLate<T extends AsyncDisposable | undefined>(getting: Promise<T>, signal: AbortSignal): Promise<T> {
    try {
      return await unlessAborted(getting, signal);
    } catch (error) {
      if (signal.aborted) getting.then((late) => late?.[Symbol.asyncDispose]()).catch(() => {});
      throw error;
    }
  }

  async #opened(signal: AbortSignal): ReturnType<DeviceParts["resources"]["openOther"]> {
    return await this.#orLate(this.#context.device.resources.openOther(this.#description, signal), signal);
  }

  /**
   * Undefined: the image is locked. Its lock may be ours, on the old image behind the new one; or its owner lets go of it once
   * the old one is closed.
   */
  async #openUnlessLocked(signal: AbortSignal): Promise<Candidate | undefined> {
    try {
      return await this.#open(signal);
    } catch (error) {
      const isOurs = this.#old.disk.image !== undefined && isLockRefusal(error);
      if (isOurs || this.#request.releaseFirst === true && isLocked(error)) return undefined;
      throw error;
    }
  }

  /** Opens it as soon as it is not locked any more. Rejects with who has it when the time is over. */
  async #openWhenFree(signal: AbortSignal): Promise<Candidate> {
    for (let locked: unknown;;) {
      try {
        return await this.#open(signal);
      } catch (error) {
        if (signal.aborted) throw locked ?? error;
        if (!isLocked(error)) throw error;
        locked = stayedLocked(error);
      }
      await this.#context.clock.sleep(RETRY_MS, signal);
      if (signal.aborted) throw locked;
    }
  }

  /** Opens the new image, checks that it fits, and locks it. */
  async #open(signal: AbortSignal): Promise<Candidate> {
    const { device, nodes } = this.#context;
    const { frontend } = this.#connection;
    await using undo = new AsyncDisposableStack();
    const disk = undo.use(await this.#opened(signal));
    const image = { disk, description: this.#description };
    const offer = nodes.publishedOffer();
    await this.#file?.check(disk);
    checkFits(this.#old, image, offer, frontend.queues.length);
    if (this.#description.inDaemon !== undefined) checkSameSize(this.#old, image);
    await unlessAborted(refuseOtherGuest(device, image), signal);
    const lock = await this.#orLate(device.resources.lockOther(image, signal), signal);
    const lack = lacks(image, offer);
    if (lack !== undefined) device.log.warning(`${disk.description}: ${lack}`);
    undo.move();
    return { image, lock, connection: connectionOn(device, offer, image, this.#connection) };
  }

  /** From the last request that the old image gets to the first one of the new image; or back. */
  async #whileRingsWait(named: NamedImage, signal: AbortSignal): Promise<void> {
    const { device, device: { resources } } = this.#context;
    await this.#releaseRings();
    let rings: readonly QueueHandle[] = [];
    try {
      if (resources.latch.tripped) {
        throw new XenblkError("Cannot exchange the image: the last flush of the old one failed");
      }
      await this.#request.finish?.(signal);
      await this.#file?.check();
      if (this.#next === undefined) {
        const { releaseFirst = false } = this.#request;
        // Where its own lock is all that is in the way, it stays open: it is the same file when it is locked again.
        const image = releaseFirst || this.#old.disk.image === undefined;
        await resources.dispose(`${image ? "close" : "unlock"} the old image`, resources.take({ image }));
        this.#next = releaseFirst ? await this.#openWhenFree(signal) : await this.#open(signal);
      }
      const { image: { disk }, connection } = this.#next;
      rings = await this.#openRings({ disk, connection }, signal);
      signal.throwIfAborted();
      this.#commit(named);
    } catch (error) {
      await Promise.all(rings.map((ring) => ring.release(UNUSED_MS)));
      await this.#goBack();
      throw error;
    }
    const { image, lock, connection } = this.#next!;
    const old = resources.exchangeImage(image, lock);
    resources.setRings(rings, connection);
    device.announced = { disk: image.disk, params: named.params };
    for (const ring of rings) ring.start();
    void resources.dispose(`close ${this.#old.disk.description}`, old).catch((error) => {
      device.log.warning(`cannot close ${this.#old.disk.description}: ${errorText(error)}`);
    });
  }

  /** All rings, or none: those that were released are opened again if another one is not. */
  async #releaseRings(): Promise<void> {
    const { resources } = this.#context.device;
    const { rings } = resources;
    const released = await Promise.all(rings.map((ring) => ring.release(this.#request.timeoutMs)));
    if (!released.includes(false)) return;
    await this.#goBack(released);
    throw new XenblkError("Cannot exchange the image: the old one has not finished what is in flight in time", {
      kind: "timeout",
      remedy: "look at its storage, or allow more time; the guest goes on with it",
    });
  }

  /** Opens all rings, which take no requests yet, or leaves none open. */
  async #openRings(on: Pick<RingPlace, "disk" | "connection">, signal: AbortSignal): Promise<QueueHandle[]> {
    const { resources } = this.#context.device;
    const opening = await Promise.allSettled(
      this.#connection.frontend.queues.map((_, queue) => resources.openRingAgain({ queue, ...on }, signal, true)),
    );
    const opened = openedOf(opening);
    const failed = opening.find((result) => result.status === "rejected");
    if (failed === undefined) return opened;
    await Promise.all(opened.map((ring) => ring.release(UNUSED_MS)));
    throw failed.reason;
  }

  /** Throws if the nodes have changed meanwhile, or xenstore fails. */
  #commit(named: NamedImage): void {
    const { nodes, seen, doubt } = this.#context;
    const { sectors: before } = this.#old.disk.properties;
    const { sectors } = this.#next!.image.disk.properties;
    try {
      if (!nodes.nameImage(seen, named, sectors > before ? sectors : undefined)) throw changedMeanwhile();
    } catch (error) {
      const but = { params: seen.params!, inDaemon: this.#old.description.inDaemon };
      if (isDisconnection(error)) doubt(named, but);
      throw error;
    }
  }

  /**
   * The old image serves the rings again. If it was closed, another process has its lock, or the rings cannot be opened,
   * the device does that as after a restart, and tries until it succeeds.
   */
  async #goBack(released?: readonly boolean[]): Promise<void> {
    const { device: { resources, log } } = this.#context;
    const { disk } = this.#old;
    if (resources.image?.disk !== disk) return resources.ringsLost();
    try {
      await resources.lockImage();
    } catch (error) {
      log.warning(`cannot go back to ${disk.description} at once: ${errorText(error)}`);
      return await resources.closeRings();
    }
    const connection = this.#connection;
    const never = new AbortController().signal;
    const opening = await Promise.allSettled(
      resources.rings.map((ring, queue) =>
        released?.[queue] === false
          ? Promise.resolve(ring)
          : resources.openRingAgain({ queue, disk, connection }, never, false)
      ),
    );
    resources.setRings(openedOf(opening), connection);
    const failed = opening.find((result) => result.status === "rejected");
    if (failed === undefined) return;
    log.warning(
      `cannot go back to ${disk.description} at once: ${errorText(failed.reason)}; its rings are opened anew`,
    );
    await resources.closeRings();
  }
}

/** Whether others have the image, of whichever engine. */
function isLocked(error: unknown): error is XenblkError {
  return error instanceof ImageBusyError || isLockRefusal(error);
}

function stayedLocked(error: XenblkError): XenblkError {
  return new XenblkError(`${error.message}, and that has not ended although the present image was closed`, {
    cause: error,
    remedy: "end the server of the present image once nobody is connected to it any more, or allow more time",
  });
}

function changedMeanwhile(): XenblkError {
  return new XenblkError("Cannot exchange the image: the disk's nodes have changed meanwhile", {
    remedy: "look at the disk with `xenblk show`, and try it again",
  });
}

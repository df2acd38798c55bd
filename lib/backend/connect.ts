/**
 * Connecting to a frontend that has published its rings, step by step, and what is undone if a step fails. Two shorter
 * ways share its steps: `resume` serves the rings without going to Connected, `publish` repeats the last step.
 */

import { isAbort } from "../abort.ts";
import { errorText } from "../errors.ts";
import { XenstoreError } from "../hypervisor.ts";
import type { Logger } from "../log.ts";
import type { Disk } from "../storage/disk.ts";
import { ImageBusyError } from "../storage/image/lock.ts";
import { type DiskDescription, diskNodes, type NodeValue, type Offer } from "../xenbus/features.ts";
import type { FrontendParameters } from "../xenbus/negotiate.ts";
import { XenbusState } from "../xenbus/states.ts";
import type { Outcome } from "../xenbus/transitions.ts";
import { isDisconnection } from "../xenstore.ts";
import type { Exclusion, ImageQuery } from "../toolstack/sharing.ts";
import type { DeviceError } from "./device_error.ts";
import { ATTACHMENT_NODE } from "./device_latch.ts";
import type { DeviceNodes, Observation } from "./device_nodes.ts";
import { grantModeOf } from "./grant_choice.ts";
import { type ConnectionIdentity, resumedConnection, slotsOf } from "./journals.ts";
import type { Connection, OpenImage } from "./resource_types.ts";
import type { DeviceResources } from "./resources.ts";
import { type DeviceSettings, offerOf } from "./settings.ts";
import { OverdueError } from "./waits.ts";

/** Why a disk fails that an earlier process has served. */
const ENDED = {
  all: "what was written to it has ended with the process that served it",
  unflushed: "an earlier process has ended before its writes were flushed",
} as const;

/** Reported for a disk that is served although a flush of it failed, perhaps under an earlier process. */
const LATCHED = "Cannot write to it: a flush failed since it was attached, or the file that records this was lost; " +
  "check its storage, then attach it anew";

/** Why guest pages are not used although the operator chose so. */
const NOT_DIRECT = "cache none reaches guest pages only with the node direct-io-safe=1";

/** The parts of a device that opening and connecting work on. */
export interface DeviceParts {
  readonly resources: DeviceResources;
  readonly settings: DeviceSettings;
  readonly error: DeviceError;
  /** Puts the device's label before each line. */
  readonly log: Logger;
  /**
   * Which disk of another guest of this host excludes a use of an image; undefined if none does, or only another life of
   * the same guest.
   */
  readonly findOtherGuest: (query: ImageQuery) => Promise<Exclusion | undefined>;
  /** The open disk that frontend and toolstack have been told of, if there is one, and what `params` said then. */
  announced: { readonly disk: Disk; readonly params: string | undefined } | undefined;
}

/** Serves the frontend's rings, then writes the disk's properties and Connected. */
export async function connect(device: DeviceParts, nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
  const outcome = await serveRings(device, nodes, seen);
  return outcome === "done" && device.resources.connected ? publish(device, nodes, seen) : outcome;
}

/** Serves the rings of a device that is to be removed: its guest may still wait for responses. */
export async function resume(device: DeviceParts, nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
  const outcome = await serveRings(device, nodes, seen);
  if (outcome !== "done" || !device.resources.connected) return outcome;
  frontendKnows(device);
  reportLatch(device, nodes);
  return outcome;
}

/**
 * The last step: writes the disk's properties and Connected. If that fails, or the state is another one by now, the
 * rings stay open and `untold`: the frontend may know of them, and a guest that an earlier process served uses them.
 */
export function publish(device: DeviceParts, nodes: DeviceNodes, seen: Observation): Outcome {
  const { resources, error } = device;
  const all = [
    ...diskNodes(describeDisk(resources.image!)),
    ...resources.journals.identityNodes(resources.connection!.identity),
  ];
  if (!resources.latch.tripped) error.clear("latch");
  if (!nodes.connect(seen.backendState, all, error.clear("attempt"), isRunning(seen))) return "done";
  reportLatch(device, nodes);
  frontendKnows(device);
  return "done";
}

/** A flush has failed, at any time since the disk was attached. Throws if xenstore fails. */
export function reportLatch({ resources: { latch, failure }, error }: DeviceParts, nodes: DeviceNodes): void {
  if (!latch.tripped) return;
  const lost = `Cannot use it: ${failure}; writes that it had answered may be lost: attach it anew`;
  error.report(nodes, "latch", failure === undefined ? LATCHED : lost);
}

/** Another process turned out to own the device; throws the reason if the lock cannot be taken or tested. */
export function isOthers({ resources: { lock } }: DeviceParts): boolean {
  return lock.owner === "unknown" && lock.claim() === "other";
}

/**
 * Closes the rings and reports why; an image that is open stays open. `opening`: the toolstack waits for the image.
 * Throws the reason if xenstore failed, storage does not answer, or the process is being ended.
 */
export async function refuse(
  device: DeviceParts,
  nodes: DeviceNodes,
  reason: unknown,
  opening: boolean,
): Promise<Outcome> {
  if (reason instanceof XenstoreError || reason instanceof OverdueError || isAbort(reason)) throw reason;
  const { resources, error } = device;
  await resources.closeRings();
  const isBusy = reason instanceof ImageBusyError;
  error.report(nodes, "attempt", isBusy ? waitsForImage(reason) : errorText(reason), opening && !isBusy);
  return isBusy ? "busy" : "refused";
}

/** Said while another process holds the image's lock. A toolstack's script looks for `waits for`. */
export function waitsForImage({ image: { path }, who }: ImageBusyError): string {
  return `It waits for image ${path}: ${who}; it connects when that use ends`;
}

/**
 * All steps but the last. The steps that may take long come first, and the nodes are read after them. If the situation
 * has changed by then (the disk may have been attached again), or another process owns the device, no ring is opened and
 * the outcome is `done`.
 */
async function serveRings(device: DeviceParts, nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
  const { resources } = device;
  try {
    if (isOthers(device)) return "done";
    // A frontend that published another ring under this one has started over: nothing of the old one is replayed.
    const startedOver = resources.ring === "served";
    if (resources.opening === undefined) await resources.closeRings();
    const image = await currentImage(device, nodes, seen);
    if (image === undefined) return "done";
    await resources.lockImage();
    const isCurrent = await nodes.isCurrent(seen);
    const offer = nodes.publishedOffer();
    const frontend = isCurrent ? negotiate(device, nodes, seen, offer) : undefined;
    // Rings that took too long to open are still wanted if the frontend asks for the same.
    if (frontend === undefined || !isSame(resources.opening?.frontend ?? frontend, frontend)) {
      await resources.closeRings();
      return "done";
    }
    if (resources.opening === undefined) {
      // With the nonce of an earlier process: it may have served requests before it wrote Connected.
      const identity = resumedConnection(startedOver ? undefined : nodes.connectionNonce());
      beginRings(device, nodes, seen, { image, offer, frontend, identity });
    }
    await resources.openRings();
    if (!stillAsksFor(frontend, () => negotiate(device, nodes, seen, offer))) await resources.closeRings();
    return "done";
  } catch (reason) {
    return await refuse(device, nodes, reason, false);
  }
}

/** What rings are opened from. */
interface RingChoices {
  readonly image: OpenImage;
  readonly offer: Offer;
  readonly frontend: FrontendParameters;
  readonly identity: ConnectionIdentity;
}

function beginRings(device: DeviceParts, nodes: DeviceNodes, seen: Observation, choices: RingChoices): void {
  const { resources } = device;
  const { image, offer, frontend, identity } = choices;
  const goesOn = identity.resume || seen.backendState === XenbusState.Connected;
  const lost = goesOn && nodes.keptWrites() ? resources.filters.takeOver() : undefined;
  if (lost !== undefined) resources.diskFailed(image.disk, lost);
  const latch = openLatch(device, nodes);
  writeIdentity(device, nodes, seen, { identity, latch });
  const journals = resources.journals.open(slotsOf(frontend), identity);
  const connection = connectionOn(device, offer, image, { frontend, identity });
  resources.beginRings(image.disk, connection, journals);
}

/** The open image with what the nodes say of it now; undefined, and it is closed, if they name another one. */
async function currentImage(
  { resources, settings }: DeviceParts,
  nodes: DeviceNodes,
  seen: Observation,
): Promise<OpenImage | undefined> {
  const description = nodes.describe(settings.image);
  if (description === undefined) return undefined;
  if (resources.holds(description)) return await resources.openImage(description);
  if (await nodes.isCurrent(seen)) await resources.release();
  return undefined;
}

/** What the frontend asks for. It may ask for all that was published, also by an earlier process. */
function negotiate({ settings }: DeviceParts, nodes: DeviceNodes, seen: Observation, offer: Offer): FrontendParameters {
  const { defaultProtocol } = settings;
  return nodes.readFrontend({ frontendPath: seen.frontendPath, defaultProtocol, offer });
}

/** False if the frontend has started over meanwhile, with other rings, or is gone. Throws if xenstore fails. */
function stillAsksFor(frontend: FrontendParameters, negotiate: () => FrontendParameters): boolean {
  try {
    return isSame(negotiate(), frontend);
  } catch (error) {
    if (error instanceof XenstoreError) throw error;
    return false;
  }
}

/** Whether the frontend has published other rings than those that are served. Throws if xenstore fails. */
export function asksForOthers(device: DeviceParts, nodes: DeviceNodes, seen: Observation): boolean {
  const { frontend, offer } = device.resources.connection!;
  try {
    return !isSame(negotiate(device, nodes, seen, offer), frontend);
  } catch (error) {
    if (error instanceof XenstoreError) throw error;
    return false; // it relies on the rings that it has
  }
}

/** How this frontend's data is reached: as the settings say, if both sides and the disk allow it. */
function chooseGrants(
  { settings }: DeviceParts,
  offer: Offer,
  frontend: FrontendParameters,
  { disk, description }: OpenImage,
): ReturnType<typeof grantModeOf> {
  const persistent = { backend: offer.persistent, frontend: frontend.persistent };
  const { cache, copyOnly } = disk.properties;
  const refusal = cache === "none" && !description.directIoSafe ? NOT_DIRECT : undefined;
  return grantModeOf(settings.grants, persistent, copyOnly ?? refusal);
}

/**
 * A flush that failed under an earlier process counts as if it had failed under this one; and so do writes that ended with
 * an earlier process. Returns what must be written before the rings are served.
 */
function openLatch({ resources }: DeviceParts, nodes: DeviceNodes): NodeValue[] {
  const nonce = resources.latch.open(nodes.attachmentNonce());
  const { volatile } = resources.image!.disk;
  if (volatile !== undefined && resources.latch.hold(volatile.loses)) volatile.giveUp(ENDED[volatile.loses]);
  if (resources.failure !== undefined) resources.latch.trip();
  return nonce === undefined ? [] : [[ATTACHMENT_NODE, nonce]];
}

/**
 * The nonce is written before the rings are served: with it a process that takes over recognizes their journals. For a
 * guest that uses its rings already a failure does not stop the connection, unless the `latch` needs its node: the last step
 * writes the nonce again.
 */
function writeIdentity(
  { resources }: DeviceParts,
  nodes: DeviceNodes,
  seen: Observation,
  { identity, latch }: { readonly identity: ConnectionIdentity; readonly latch: readonly NodeValue[] },
): void {
  try {
    nodes.prepare([...latch, ...resources.journals.identityNodes(identity)]);
  } catch (error) {
    if (!isRunning(seen) || isDisconnection(error) || latch.length > 0) throw error;
  }
}

/** The connection of a frontend that was offered this, with its rings on that image. */
export function connectionOn(
  device: DeviceParts,
  offer: Offer,
  image: OpenImage,
  { frontend, identity }: Pick<Connection, "frontend" | "identity">,
): Connection {
  const { settings } = device;
  const { disk, description: { directIoSafe, discardEnable } } = image;
  const { mode: grants, reason: grantsReason } = chooseGrants(device, offer, frontend, image);
  const discard = offerOf(settings, disk.properties, discardEnable).discard !== undefined;
  return { frontend, offer, grants, grantsReason, identity, directIoSafe, discard };
}

/** The rings are served and the frontend knows it. */
function frontendKnows({ resources, settings, log }: DeviceParts): void {
  const { frontend: { queues }, grants, grantsReason } = resources.connection!;
  if (grantsReason !== undefined) log.info(`grants ${grants} in place of ${settings.grants}: ${grantsReason}`);
  const pages = queues[0]?.ringRefs.length ?? 0;
  const rings = `${queues.length} ring${queues.length === 1 ? "" : "s"} of ${pages} page${pages === 1 ? "" : "s"}`;
  log.info(`connected: the guest uses the disk by ${rings}, grants ${grants}`);
  resources.ringTold();
}

/** Another process left both sides Connected: the frontend uses its rings, and need not be notified. */
function isRunning({ backendState, frontendState }: Observation): boolean {
  return backendState === XenbusState.Connected && frontendState === XenbusState.Connected;
}

/** Compares plain data. */
function isSame<T>(one: T, other: T): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function describeDisk({ disk, description: { cdrom, removable } }: OpenImage): DiskDescription {
  return { ...disk.properties, cdrom, removable };
}

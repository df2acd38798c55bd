/**
 * Attaches a disk to a guest, whichever backend will serve it: writes the nodes that libxl would write, all in one
 * transaction, waits for both ends to connect, and removes the nodes again.
 */

import { PASSES } from "../xenbus/error_text.ts";
import type { AbiName } from "../blkif/abi.ts";
import { XenblkError } from "../errors.ts";
import type { DomId, Xenstore, XenstoreOperations, XenstorePermission } from "../hypervisor.ts";
import { backendKindPath, backendPath, type DeviceAddress, frontendPath, libxlPath } from "../xenbus/paths.ts";
import { parseState, stateName, XenbusState } from "../xenbus/states.ts";
import { clashes, formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { removeWithEmptyParents } from "../xenstore.ts";
import { frontendSays } from "./frontend_says.ts";
import { waitFor, type WaitOptions } from "./wait.ts";

/** A disk for a guest. */
export interface AttachRequest {
  /** The guest. */
  readonly domain: DomId;
  /** The domain of the backend that will serve it. */
  readonly backendDomain: DomId;
  /** The backend's kind, such as `vbd3`. */
  readonly kind: string;
  /** The image as the backend's `params` node names it: `format:target`, a URI, or `format=...,target=...`. */
  readonly params: string;
  /** The guest must not write. */
  readonly readOnly: boolean;
  /** Others may write to the image at the same time (mode `w!`). Default: false. */
  readonly shared?: boolean;
  /** The guest sees a removable CD-ROM. */
  readonly cdrom: boolean;
  /** Name or number of the virtual device. Default: the first xvd name with unused letters. */
  readonly vdev?: string;
  /** Written as the frontend's `protocol`. Default: x86_64 for a PV guest, else no node. */
  readonly protocol?: AbiName;
  /** Further nodes of the backend's directory, which its backend reads. */
  readonly kept?: Readonly<Record<string, string>>;
}

/** Letters tried for a free disk: a to z, then aa to zz. */
const ALPHABET = [..."abcdefghijklmnopqrstuvwxyz"];
const DISK_LETTERS = [...ALPHABET, ...ALPHABET.flatMap((first) => ALPHABET.map((second) => first + second))];

/**
 * Writes the nodes of a new disk. Throws {@linkcode XenblkError} when the domain does not exist (`not-found`), or when
 * `vdev` is not a virtual device (`usage`) or is taken (`failed`); then nothing is written. `claim` is called with the
 * device before others can see its nodes, once per attempt of the transaction. If it throws, nothing is written.
 */
export function attachDevice(
  store: Xenstore,
  request: AttachRequest,
  claim?: (device: DeviceAddress) => void,
): DeviceAddress {
  return store.transaction((transaction) => {
    const { domain, backendDomain, kind } = request;
    const home = store.domainPath(domain);
    if (transaction.read(home) === undefined) {
      throw new XenblkError(`Cannot attach to domain ${domain}: there is no ${home} in xenstore`, {
        kind: "not-found",
        remedy: "name a running domain",
      });
    }
    const vdev = request.vdev === undefined ? firstFree(transaction, request) : parseVdev(request.vdev);
    const device = { backendDomain, kind, frontendDomain: domain, vdev };
    refuseTaken(transaction, device);
    claim?.(device);
    writeNodes(transaction, device, request);
    return device;
  });
}

/** Removes all nodes of a disk, and the directories that this leaves empty. Nodes may be missing already. */
export function removeDevice(store: Xenstore, device: DeviceAddress): void {
  const { backendDomain, kind, frontendDomain, vdev } = device;
  const backendHome = store.domainPath(backendDomain);
  store.transaction((transaction) => {
    removeWithEmptyParents(transaction, backendPath(device), `${backendHome}/backend`);
    removeWithEmptyParents(
      transaction,
      `${backendHome}/error/backend/${kind}/${frontendDomain}/${vdev}`,
      `${backendHome}/error`,
    );
    // `device/vbd` itself stays: the guest's kernel watches it, and libxl creates it for every guest.
    transaction.remove(frontendPath(device));
    removeWithEmptyParents(transaction, libxlPath(device), `/libxl/${frontendDomain}/device`);
  });
}

/**
 * Waits until backend and frontend are both Connected. Rejects with {@linkcode XenblkError}: `failed` with the text of
 * the backend's `error` node, `not-found` if the device is removed, `timeout` if the guest does not connect in time.
 */
export async function waitForConnected(store: Xenstore, device: DeviceAddress, options: WaitOptions): Promise<void> {
  const [backend, frontend] = [backendPath(device), frontendPath(device)];
  const name = `${formatVdev(device.vdev)} of domain ${device.frontendDomain}`;
  const states = (): string => {
    const [ours, theirs] = [backend, frontend].map((path) => stateName(parseState(store.read(`${path}/state`))));
    return `backend ${ours}, frontend ${theirs}`;
  };
  const look = (): true | undefined => {
    const error = store.read(`${backend}/error`);
    if (error !== undefined && !error.endsWith(PASSES)) throw new XenblkError(`Cannot attach ${name}: ${error}`);
    const state = parseState(store.read(`${backend}/state`));
    if (state === "gone") {
      throw new XenblkError(`Cannot attach ${name}: ${backend} was removed meanwhile`, { kind: "not-found" });
    }
    // A guest that ends takes the whole directory with it.
    if (store.read(frontend) === undefined) {
      throw new XenblkError(`Cannot attach ${name}: the guest's nodes were removed meanwhile: it has ended`, {
        kind: "not-found",
        remedy: "start the guest and attach the disk again",
      });
    }
    const connected = [state, parseState(store.read(`${frontend}/state`))].every((s) => s === XenbusState.Connected);
    return connected ? true : undefined;
  };
  if (await waitFor(store, [backend, frontend], look, options)) return;
  const error = store.read(`${backend}/error`);
  if (error !== undefined) throw new XenblkError(`Cannot attach ${name} in time: ${error}`, { kind: "timeout" });
  throw notConnected(store, device, name, states());
}

/** A guest without a driver for Xen's disks leaves its state at Initialising. */
function notConnected(store: Xenstore, device: DeviceAddress, name: string, states: string): XenblkError {
  const state = parseState(store.read(`${frontendPath(device)}/state`));
  const idle = state === XenbusState.Initialising || state === "gone";
  const why = idle ? ": no driver in the guest has taken the disk" : frontendSays(store, device);
  return new XenblkError(`Cannot attach ${name}: the guest did not connect in time (${states})${why}`, {
    kind: "timeout",
    remedy: idle
      ? "check that the guest is running and has a Xen block frontend (in Linux the module xen-blkfront)"
      : "see the guest's kernel log",
  });
}

/** The virtual device numbers that a domain's nodes use, whichever backend serves them. */
function usedVdevs(store: XenstoreOperations, domain: DomId, backendDomain: DomId, kind: string): number[] {
  const directories = [
    `/local/domain/${domain}/device/vbd`,
    `/libxl/${domain}/device/vbd`,
    `${backendKindPath(backendDomain, kind)}/${domain}`,
  ];
  return directories.flatMap((directory) => store.list(directory) ?? []).map(Number).filter(Number.isInteger);
}

function firstFree(store: XenstoreOperations, { domain, backendDomain, kind }: AttachRequest): number {
  const used = usedVdevs(store, domain, backendDomain, kind);
  const free = DISK_LETTERS.map((letters) => parseVdev(`xvd${letters}`))
    .find((vdev) => !used.some((other) => clashes(vdev, other)));
  if (free === undefined) throw new XenblkError(`Cannot attach to domain ${domain}: it has too many disks`);
  return free;
}

function refuseTaken(store: XenstoreOperations, device: DeviceAddress): void {
  const { frontendDomain: domain, backendDomain, kind, vdev } = device;
  const name = formatVdev(vdev);
  const refuse = (why: string, remedy: string): never => {
    throw new XenblkError(`Cannot attach ${name} to domain ${domain}: ${why}`, { remedy });
  };
  const holder = [frontendPath(device), backendPath(device), libxlPath(device)]
    .find((path) => store.read(path) !== undefined);
  if (holder !== undefined) {
    refuse(`it is taken by ${holder}`, `choose another device or detach it with \`xenblk detach ${domain} ${name}\``);
  }
  const other = usedVdevs(store, domain, backendDomain, kind).find((used) => clashes(vdev, used));
  if (other === undefined) return;
  const why = `it clashes with ${formatVdev(other)}, which the guest has: Linux numbers both alike`;
  refuse(why, "choose another device, or leave the choice to attach");
}

function writeNodes(store: XenstoreOperations, device: DeviceAddress, request: AttachRequest): void {
  const { backendDomain, frontendDomain } = device;
  const backend = backendNodes(device, request);
  const owned = (owner: DomId, ...readers: DomId[]): XenstorePermission[] => [
    { domain: owner, read: false, write: false },
    ...readers.map((domain) => ({ domain, read: true, write: false })),
  ];
  const protocol = protocolFor(store, request);
  writeDirectory(store, frontendPath(device), owned(frontendDomain, backendDomain), {
    "backend": backendPath(device),
    "backend-id": String(backendDomain),
    "state": String(XenbusState.Initialising),
    "virtual-device": String(device.vdev),
    "device-type": request.cdrom ? "cdrom" : "disk",
    "trusted": "1",
    ...(protocol === undefined ? {} : { protocol }),
  });
  const kept = request.kept ?? {};
  writeDirectory(store, backendPath(device), owned(backendDomain, frontendDomain), { ...backend, ...kept });
  writeDirectory(store, libxlPath(device), owned(0 as DomId), {
    ...backend,
    "frontend": frontendPath(device),
    "backend": backendPath(device),
  });
}

function backendNodes(device: DeviceAddress, request: AttachRequest): Record<string, string> {
  return {
    "frontend": frontendPath(device),
    "frontend-id": String(device.frontendDomain),
    "online": "1",
    "removable": request.cdrom ? "1" : "0",
    "bootable": "1",
    "dev": formatVdev(device.vdev),
    "type": device.kind,
    "mode": request.readOnly ? "r" : request.shared ? "w!" : "w",
    "device-type": request.cdrom ? "cdrom" : "disk",
    "params": request.params,
    "discard-enable": "1",
    "state": String(XenbusState.Initialising),
  };
}

/** Sets the directory's permissions first. New nodes inherit them, so no other domain can ever read one. */
function writeDirectory(
  store: XenstoreOperations,
  path: string,
  permissions: readonly XenstorePermission[],
  nodes: Readonly<Record<string, string>>,
): void {
  store.makeDirectory(path);
  store.setPermissions(path, permissions);
  for (const [name, value] of Object.entries(nodes)) store.write(`${path}/${name}`, value);
}

/** Frontends of old PV kernels do not name their ABI, so libxl does it for PV guests. */
function protocolFor(store: XenstoreOperations, request: AttachRequest): AbiName | undefined {
  if (request.protocol !== undefined) return request.protocol;
  return store.read(`/libxl/${request.domain}/type`) === "pv" ? "x86_64-abi" : undefined;
}

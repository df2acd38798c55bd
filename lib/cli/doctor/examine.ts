/**
 * Runs every check of `doctor`. What they try out on this machine is in {@linkcode Probes}, so that a test can take away
 * one part after the other.
 */

import { ownDomain } from "../../backend/kind.ts";
import { errorText, XenblkError } from "../../errors.ts";
import type { NativePlatform } from "../../host_platform.ts";
import type { DomId, Refusal } from "../../hypervisor.ts";
import { journalDirectory } from "../../journal_directory.ts";
import { type DaemonProgram, findProgram } from "../../storage/qemu/program.ts";
import { runQemuImg } from "../../storage/qemu/qemu_img.ts";
import { daemonsDirectory } from "../../storage/qemu/directory.ts";
import { type DaemonSeen, surveyDaemons } from "../../storage/qemu/survey.ts";
import { writeLogName } from "../../storage/write_log/name.ts";
import { DiskLog, type LogContent } from "../../storage/write_log/log.ts";
import { type DeviceListing, listAddresses, listDevices } from "../../toolstack/list.ts";
import { backendPath } from "../../xenbus/paths.ts";
import { readConfig, type ReadFile } from "../config/file.ts";
import * as checks from "./checks.ts";
import { checkDaemons, checkLost, checkProgram, checkQemuImg } from "./daemons.ts";
import { checkConfig, checkScript, checkService, checkSockets } from "./installed.ts";
import { checkJournals, checkLimits, type JournalOwner } from "./journals.ts";
import type { Machine } from "./machine.ts";
import { checkSecurity } from "./security.ts";

/** What is tried out on the machine, beside what is read of it. */
export interface Probes {
  readonly machine: Machine;
  /** Opens and closes a part of the hypervisor that serving needs, or throws. */
  readonly parts: Readonly<Record<string, () => void>>;
  /** The disks in xenstore. Throws if xenstored does not answer. */
  listDevices(): DeviceListing[];
  /** Whether a device's nodes have been removed. Throws if xenstored does not answer. */
  goneDevices(): (device: JournalOwner) => boolean;
  /** Why io_uring cannot be used. Throws without the permission for FFI. */
  uringRefusal(): Refusal | undefined;
  /** Rejects if the storage daemon's program is not there. */
  findDaemonProgram(): Promise<DaemonProgram>;
  /** What qemu-img prints as its version. Rejects if it cannot be run. */
  qemuImgVersion(): Promise<string>;
  /** The storage daemons that run, or have left something. Rejects if their directory cannot be read. */
  surveyDaemons(directory: string): Promise<DaemonSeen[]>;
  /** See readConfig. */
  readConfig(path: string): Promise<ReadFile | undefined>;
  /** Path of this version's hotplug script. */
  readonly ownScript: string;
}

/** How long qemu-img may take to print its version. */
const VERSION_MS = 10_000;
/** In a checkout and in a package. */
const OWN_SCRIPT = new URL("../../../contrib/block-xenblk", import.meta.url).pathname;

/** The probes of this machine. */
export function probesOf(platform: NativePlatform, machine: Machine): Probes {
  // Any domain id will do: nothing is sent to the domain.
  const guest = 0 as DomId;
  return {
    machine,
    parts: {
      xenstored: () => {
        using store = platform.openXenstore();
        store.list("/");
      },
      libxengnttab: () => platform.openGrantTable(guest)[Symbol.dispose](),
      libxenevtchn: () => platform.openEventChannels(guest)[Symbol.dispose](),
    },
    listDevices: () => {
      using store = platform.openXenstore();
      return listDevices(store);
    },
    goneDevices: () => {
      using store = platform.openXenstore();
      const backends = `${store.domainPath(ownDomain(store))}/backend`;
      const known = new Set(listAddresses(store).map((device) => backendPath(device)));
      return ({ kind, domain, vdev }) => !known.has(`${backends}/${kind}/${domain}/${vdev}`);
    },
    uringRefusal: () => platform.files.uringRefusal(),
    findDaemonProgram: () => findProgram((name) => machine.environment(name)),
    qemuImgVersion: async () => {
      const { stdout } = await runQemuImg(["--version"], { what: "Cannot use qemu-img", timeoutMs: VERSION_MS });
      return stdout;
    },
    surveyDaemons,
    readConfig: (path) => readConfig(path, false),
    ownScript: OWN_SCRIPT,
  };
}

/** Runs every check. */
export async function examine(probes: Probes): Promise<checks.Finding[]> {
  const { machine } = probes;
  const isGone = goneDevices(probes);
  return [
    ...checks.checkPermissions(machine),
    ...checks.checkHypervisor(machine),
    ...checks.checkDevices(machine),
    checks.checkSocket(machine),
    ...tryParts(probes),
    ...waitingDisks(probes),
    ...checkJournals(machine, isGone),
    ...checkSockets(machine),
    ...await storageDaemons(probes, isGone),
    checks.checkIoUring(uringRefusal(probes)),
    ...checkLimits(machine),
    ...await checkConfig(machine, (path) => probes.readConfig(path)),
    ...await checkService(machine),
    ...checkScript(machine, probes.ownScript),
    ...await checkSecurity(machine),
  ];
}

/** Disks that no backend serves; no row if xenstored does not answer, which other rows report. */
function waitingDisks(probes: Probes): checks.Finding[] {
  try {
    return checks.checkWaiting(probes.listDevices());
  } catch {
    return [];
  }
}

/** Undefined if xenstored does not answer. */
function goneDevices(probes: Probes): ((device: JournalOwner) => boolean) | undefined {
  try {
    return probes.goneDevices();
  } catch {
    return undefined; // the rows about xenstored report the reason
  }
}

/** The programs that storage daemons need, and those that run. */
async function storageDaemons(
  probes: Probes,
  isGone: ((device: JournalOwner) => boolean) | undefined,
): Promise<checks.Finding[]> {
  const programs = [
    checkProgram(await probes.findDaemonProgram().catch((error) => error)),
    checkQemuImg(await probes.qemuImgVersion().catch((error) => error)),
  ];
  const journals = journalDirectory((name) => probes.machine.environment(name));
  try {
    const daemons = await probes.surveyDaemons(daemonsDirectory(journals));
    const isDeviceGone = isGone && ((label: string): boolean => {
      const [kind, domain, vdev] = label.split("/");
      return isGone({ kind: kind!, domain: Number(domain), vdev: Number(vdev) });
    });
    const lost = daemons.flatMap((daemon) => daemon.lost).filter(({ device }) => isDeviceGone?.(device) === true);
    const unwritten = await Promise.all(lost.map(async (disk) => {
      const content = await contentOf(`${journals}/${writeLogName(disk.device)}`, disk.tag);
      return content === undefined || content.operations === 0 ? [] : [checkLost(disk, content)];
    }));
    return [...programs, ...checkDaemons(daemons, isDeviceGone), ...unwritten.flat()];
  } catch {
    return programs; // the row about journals reports a directory that cannot be read
  }
}

/** What a write log holds for the disk with this tag; undefined if there is none. */
async function contentOf(path: string, tag: string | undefined): Promise<LogContent | undefined> {
  try {
    const bytes = await Deno.readFile(path);
    return new DiskLog(bytes).contentFor(tag);
  } catch {
    return undefined; // the row about daemons is there in any case
  }
}

/** Why io_uring cannot be used; without the permission for FFI that is the reason. */
function uringRefusal(probes: Probes): Refusal | undefined {
  try {
    return probes.uringRefusal();
  } catch (error) {
    const remedy = error instanceof XenblkError ? error.remedy : undefined;
    const reason = remedy === undefined ? errorText(error) : (error as XenblkError).message;
    return { reason, remedy: remedy ?? "run deno with --allow-ffi" };
  }
}

/** Opens and closes each part of the hypervisor that serving needs. */
function tryParts({ parts }: Probes): checks.Finding[] {
  return Object.entries(parts).map(([check, open]) => {
    try {
      open();
      return checks.checkPart(check, undefined);
    } catch (error) {
      return checks.checkPart(check, error);
    }
  });
}

/**
 * `xenblk doctor`: checks everything that serving needs and shows each problem with its fix.
 * It changes nothing.
 */

import { ownDomain } from "../../backend/kind.ts";
import { errorText, EXIT_STATUS, XenblkError } from "../../errors.ts";
import type { NativePlatform } from "../../host_platform.ts";
import type { DomId, Refusal } from "../../hypervisor.ts";
import * as checks from "./checks.ts";
import { checkDaemons, checkLost, checkProgram, checkQemuImg } from "./daemons.ts";
import { checkJournals, checkLimits, type JournalOwner } from "./journals.ts";
import { journalDirectory } from "../../journal_directory.ts";
import { writeLogName } from "../../storage/daemon_disk.ts";
import { findProgram } from "../../storage/qemu/program.ts";
import { runQemuImg } from "../../storage/qemu/qemu_img.ts";
import { daemonsDirectory, surveyDaemons } from "../../storage/qemu/survey.ts";
import { DiskLog, type LogContent } from "../../storage/write_log/log.ts";
import { listAddresses, listDevices } from "../../toolstack/list.ts";
import { backendPath } from "../../xenbus/paths.ts";
import { flag } from "../options.ts";
import { renderTable } from "../table.ts";
import { defineVerb, type Host } from "../verb.ts";

/** The verb. */
export const doctor = defineVerb({
  name: "doctor",
  summary: "Check this machine for everything that serving needs; each problem comes with its fix",
  description:
    "The exit status is 5 if a row says fail: serve and attach then cannot work here. dry-run needs none of this.",
  operands: [],
  options: {
    "json": flag("Print JSON", "J"),
    "no-headings": flag("Print the table without its headings"),
  },
  permissions: "--allow-read --allow-write --allow-ffi --allow-env; a row shows each one that is missing.",
  examples: ["xenblk doctor", "xenblk doctor --json | jq '.[] | select(.standing != \"ok\")'"],
  async run({ output, host }, options): Promise<number> {
    const findings = await examine(host, checks.THIS_MACHINE);
    if (options.json) output.json(findings);
    else output.data(renderFindings(findings, !options["no-headings"], output.columns));
    return findings.some(({ standing }) => standing === "fail") ? EXIT_STATUS.hypervisor : 0;
  },
});

/** Runs every check. */
async function examine(host: Host, machine: checks.Machine): Promise<checks.Finding[]> {
  const platform = await host.openNativePlatform();
  return [
    ...checks.checkPermissions(machine),
    ...checks.checkHypervisor(machine),
    ...checks.checkDevices(machine),
    checks.checkSocket(machine),
    ...tryParts(platform),
    ...waitingDisks(platform),
    ...checkJournals(machine, goneDevices(platform)),
    ...await storageDaemons(machine, goneDevices(platform)),
    checks.checkIoUring(uringRefusal(platform)),
    ...checkLimits(machine),
  ];
}

/** Disks that no backend serves; no row if xenstored does not answer, which other rows report. */
function waitingDisks(platform: NativePlatform): checks.Finding[] {
  try {
    using store = platform.openXenstore();
    return checks.checkWaiting(listDevices(store));
  } catch {
    return [];
  }
}

/** Whether a device's nodes have been removed; undefined if xenstored does not answer. */
function goneDevices(platform: NativePlatform): ((device: JournalOwner) => boolean) | undefined {
  try {
    using store = platform.openXenstore();
    const backends = `${store.domainPath(ownDomain(store))}/backend`;
    const known = new Set(listAddresses(store).map((device) => backendPath(device)));
    return ({ kind, domain, vdev }) => !known.has(`${backends}/${kind}/${domain}/${vdev}`);
  } catch {
    return undefined; // the rows about xenstored report the reason
  }
}

/** How long qemu-img may take to print its version. */
const VERSION_MS = 10_000;

/** The programs that storage daemons need, and those that run. */
async function storageDaemons(
  machine: checks.Machine,
  isGone: ReturnType<typeof goneDevices>,
): Promise<checks.Finding[]> {
  // Its failure is expected from the start: it may come while the other program is looked for.
  const version = runQemuImg(["--version"], { what: "Cannot use qemu-img", timeoutMs: VERSION_MS })
    .then(({ stdout }) => stdout, (error) => error);
  const programs = [
    checkProgram(await findProgram((name) => machine.environment(name)).catch((error) => error)),
    checkQemuImg(await version),
  ];
  const journals = journalDirectory((name) => machine.environment(name));
  const directory = daemonsDirectory(journals);
  try {
    const daemons = await surveyDaemons(directory);
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
function uringRefusal(platform: NativePlatform): Refusal | undefined {
  try {
    return platform.files.uringRefusal();
  } catch (error) {
    const remedy = error instanceof XenblkError ? error.remedy : undefined;
    const reason = remedy === undefined ? errorText(error) : (error as XenblkError).message;
    return { reason, remedy: remedy ?? "run deno with --allow-ffi" };
  }
}

/** Opens and closes each part of the hypervisor that serving needs. */
function tryParts(platform: NativePlatform): checks.Finding[] {
  // Any domain id will do: nothing is sent to the domain.
  const guest = 0 as DomId;
  const parts: readonly (readonly [string, () => void])[] = [
    ["xenstored", () => {
      using store = platform.openXenstore();
      store.list("/");
    }],
    ["libxengnttab", () => platform.openGrantTable(guest)[Symbol.dispose]()],
    ["libxenevtchn", () => platform.openEventChannels(guest)[Symbol.dispose]()],
  ];
  return parts.map(([check, open]) => {
    try {
      open();
      return checks.checkPart(check, undefined);
    } catch (error) {
      return checks.checkPart(check, error);
    }
  });
}

/** The findings as a table; a fix is on its own line below its row. */
export function renderFindings(
  findings: readonly checks.Finding[],
  headings: boolean,
  terminalColumns = Infinity,
): string {
  const columns = [{ heading: "CHECK" }, { heading: "STANDING" }, { heading: "DETAIL", cut: "wrap" }] as const;
  const rows = findings.flatMap(({ check, standing, detail, fix }) => {
    const row = [check, standing, detail];
    return fix === undefined ? [row] : [row, ["", "", `fix: ${fix}`]];
  });
  return renderTable(columns, rows, headings, terminalColumns);
}

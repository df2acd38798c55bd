/**
 * The checks of `doctor` on what an installation puts on the machine: the configuration file, the service's unit, xl's
 * hotplug script, and the control sockets of serving processes.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { journalDirectory } from "../../journal_directory.ts";
import type { ReadFile } from "../config/file.ts";
import { CONFIG_FILE } from "../serve_options.ts";
import { type Finding, notAllowed, notChecked } from "./checks.ts";
import { openFilesRow } from "./journals.ts";
import type { Machine } from "./machine.ts";

const OTHERS_MAY_WRITE = 0o022;
/** How many faults of the configuration have a row. */
const MOST_FAULTS = 5;

/** The configuration file has no faults, and root alone can write it. */
export async function checkConfig(
  machine: Machine,
  read: (path: string) => Promise<ReadFile | undefined>,
): Promise<Finding[]> {
  const check = "configuration";
  const fail = (detail: string, fix: string): Finding => ({ check, standing: "fail", detail, fix });
  const facts = machine.file(CONFIG_FILE);
  if (facts === "absent") return [{ check, standing: "ok", detail: `no ${CONFIG_FILE}: the defaults hold` }];
  if (facts === "hidden") return [notChecked(check, CONFIG_FILE)];
  if (facts === "other") return [fail(`${CONFIG_FILE} is not a regular file`, "replace it by a file, or remove it")];
  if (facts === "denied") {
    return [fail(`no permission to read ${CONFIG_FILE}`, "run as root, or let this user read it")];
  }
  const safety = (facts.mode & OTHERS_MAY_WRITE) === 0 ? [] : [{
    check,
    standing: "warn" as const,
    detail: `others than its owner may write ${CONFIG_FILE}: they decide which programs and images are used`,
    fix: `chmod go-w ${CONFIG_FILE}`,
  }];
  try {
    const { faults = [], disks = [] } = await read(CONFIG_FILE) ?? {};
    if (faults.length === 0) {
      const rules = disks.length === 0 ? "" : `, ${disks.length} [[disk]]`;
      return safety.length > 0 ? safety : [{ check, standing: "ok", detail: `${CONFIG_FILE}${rules}` }];
    }
    const rows = faults.slice(0, MOST_FAULTS).map(({ line, message, remedy }) =>
      fail(`${CONFIG_FILE}:${line}: ${message}`, remedy)
    );
    const more = faults.length - rows.length;
    return [
      ...rows,
      ...(more > 0 ? [fail(`${more} more faults`, "xenblk config check shows them all")] : []),
      ...safety,
    ];
  } catch (error) {
    const remedy = error instanceof XenblkError ? error.remedy : undefined;
    return [
      fail(error instanceof XenblkError ? error.message : errorText(error), remedy ?? "correct the file"),
      ...safety,
    ];
  }
}

const UNIT = "xenblk.service";
const SYSTEMCTL_MS = 3_000;
const PROPERTIES = ["LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "LimitNOFILE"];

/** The service runs, if its unit is installed, and will after a reboot. No row without systemd. */
export async function checkService(machine: Machine): Promise<Finding[]> {
  if (typeof machine.directory("/run/systemd/system") === "string") return [];
  const check = "service";
  const printed = await machine.run(["systemctl", "show", UNIT, "--property", PROPERTIES.join(",")], SYSTEMCTL_MS);
  if (printed === "hidden") return [notAllowed(check, "to run systemctl")];
  const warn = (detail: string, fix: string): Finding => ({ check, standing: "warn", detail, fix });
  if (printed === "late") {
    return [
      warn(`systemctl has not answered for ${SYSTEMCTL_MS / 1000} s`, "see whether systemd works: systemctl status"),
    ];
  }
  if (printed === "absent") return [];
  const unit = new Map(printed.stdout.split("\n").map((line) => line.split(/=(.*)/s, 2) as [string, string]));
  const [load, active, enabled, result] = ["LoadState", "ActiveState", "UnitFileState", "Result"].map((key) =>
    unit.get(key) ?? ""
  );
  if (load === "not-found") return [{ check, standing: "ok", detail: `no unit ${UNIT}: xenblk install writes one` }];
  if (load === "masked") return [warn(`${UNIT} is masked: it cannot be started`, `systemctl unmask ${UNIT}`)];
  if (active === "failed" || unit.get("SubState") === "auto-restart") {
    return [
      warn(`${UNIT} has failed (${result})`, `journalctl -e -u ${UNIT} shows why; then systemctl restart ${UNIT}`),
    ];
  }
  const isEnabled = enabled !== "disabled";
  if (active === "inactive") {
    return isEnabled
      ? [warn(`${UNIT} is enabled, but does not run`, `systemctl start ${UNIT}`)]
      : [warn(`${UNIT} is installed, but neither enabled nor running`, `systemctl enable --now ${UNIT}`)];
  }
  const limit = openFilesRow(unit.get("LimitNOFILE") ?? "", `open files of ${UNIT}`);
  const limits = limit?.standing === "warn" ? [limit] : [];
  if (!isEnabled) {
    return [
      warn(`${UNIT} runs, but is not enabled: no disk is served after a reboot`, `systemctl enable ${UNIT}`),
      ...limits,
    ];
  }
  return [{ check, standing: "ok", detail: `${UNIT} is ${active}, and ${enabled}` }, ...limits];
}

const SCRIPT = "/etc/xen/scripts/block-xenblk";

/** xl's hotplug script is this version's, if it is installed. `own`: the path of this version's. */
export function checkScript(machine: Machine, own: string): Finding[] {
  const check = "block-xenblk";
  const [installed, ours] = [machine.readText(SCRIPT), machine.readText(own)];
  if (installed === undefined) {
    if (machine.isHidden(SCRIPT)) return [notChecked(check, SCRIPT)];
    return [{ check, standing: "ok", detail: `not installed: disks with script=block-xenblk need it` }];
  }
  if (ours === undefined || ours === installed) return [{ check, standing: "ok", detail: SCRIPT }];
  return [{
    check,
    standing: "warn",
    detail: `${SCRIPT} is not this version's`,
    fix: `compare and replace it: diff ${SCRIPT} ${own}; install -m 755 ${own} ${SCRIPT}`,
  }];
}

/** No control socket is left of a process that has ended. No row without sockets. */
export function checkSockets(machine: Machine): Finding[] {
  const directory = `${journalDirectory((name) => machine.environment(name))}/control`;
  const found = machine.directory(directory);
  if (typeof found === "string") return [];
  const check = "control sockets";
  const sockets = found.entries.flatMap((name) => {
    const pid = /^(\d+)\.sock$/.exec(name)?.[1];
    return pid === undefined
      ? []
      : [{ path: `${directory}/${name}`, isStale: machine.directory(`/proc/${pid}`) === "absent" }];
  });
  const stale = sockets.filter(({ isStale }) => isStale);
  if (stale.length > 0) {
    const ended = stale.length === 1 ? "a process that has" : "processes that have";
    const detail = `${stale.length} of ${sockets.length} in ${directory} ${
      stale.length === 1 ? "is" : "are"
    } of ${ended} ended`;
    const fix = `xenblk serve removes them when it starts, or rm ${stale.map(({ path }) => path).join(" ")}`;
    return [{ check, standing: "warn", detail, fix }];
  }
  return sockets.length === 0 ? [] : [{ check, standing: "ok", detail: `${sockets.length} in ${directory}` }];
}

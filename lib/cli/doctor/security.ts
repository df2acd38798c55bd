/**
 * The checks of `doctor` on what confines programs: SELinux, AppArmor, and who may write the configuration. A denial in a
 * log is the probable cause of a failure, not a certain one, so rows about denials are warnings.
 */

import type { Finding } from "./checks.ts";
import type { Machine } from "./machine.ts";

/** How much of the audit log is read, from its end. */
const AUDIT_BYTES = 256 * 1024;
const AUDIT_LOG = "/var/log/audit/audit.log";
const KERNEL_LOG_MS = 3_000;
/** Programs that serving runs, as the kernel shortens their names, and what belongs to Xen. */
const OURS =
  /comm="(?:deno|xenblk|qemu-storage-da|qemu-img)[^"]*"|\bname="[^"]*xenblk|\/dev\/xen\/|name="(?:gntdev|evtchn|xenbus)"/;

/** A denial that a log names. */
interface Denial {
  readonly by: "SELinux" | "AppArmor";
  /** Such as `deno: read write of gntdev`. */
  readonly what: string;
  readonly program: string;
  /** AppArmor's profile. */
  readonly profile?: string;
}

/** SELinux and AppArmor deny nothing to the programs of xenblk, as far as the logs say. No row where there is neither. */
export async function checkSecurity(machine: Machine): Promise<Finding[]> {
  const selinux = machine.readText("/sys/fs/selinux/enforce");
  const apparmor = machine.readText("/sys/module/apparmor/parameters/enabled") === "Y";
  if (selinux === undefined && !apparmor) return [];
  const log = await readLogs(machine);
  const denials = log === undefined ? [] : denialsIn(log);
  return [
    ...(selinux === undefined ? [] : [selinuxRow(selinux === "1", log !== undefined, denials)]),
    ...(apparmor ? [appArmorRow(log !== undefined, denials)] : []),
  ];
}

function selinuxRow(isEnforcing: boolean, isReadable: boolean, all: readonly Denial[]): Finding {
  const check = "SELinux";
  if (!isEnforcing) return { check, standing: "ok", detail: "permissive: it denies nothing" };
  const denials = all.filter(({ by }) => by === "SELinux");
  const last = denials.at(-1);
  if (last === undefined) return { check, standing: "ok", detail: `enforcing; ${nothingSeen(isReadable)}` };
  return {
    check,
    standing: "warn",
    detail: `enforcing, and the log has ${count(denials)}; the last one: ${last.what}`,
    fix: `if disks fail, this is probably why: ausearch -m avc -c ${last.program} | audit2allow -M xenblk, ` +
      "read xenblk.te, and semodule -i xenblk.pp if it should be allowed",
  };
}

function appArmorRow(isReadable: boolean, all: readonly Denial[]): Finding {
  const check = "AppArmor";
  const denials = all.filter(({ by }) => by === "AppArmor");
  const last = denials.at(-1);
  if (last === undefined) return { check, standing: "ok", detail: `enabled; ${nothingSeen(isReadable)}` };
  const profile = last.profile === undefined ? "the profile" : `the profile ${last.profile}`;
  return {
    check,
    standing: "warn",
    detail: `the log has ${count(denials)}; the last one: ${last.what}`,
    fix: `if disks fail, this is probably why: allow it in ${profile}, or try without: aa-complain ${
      last.profile ?? "PROFILE"
    }`,
  };
}

function nothingSeen(isReadable: boolean): string {
  return isReadable ? "its log names no denial of xenblk's programs" : "the log of its denials cannot be read here";
}

function count({ length }: readonly Denial[]): string {
  return `${length} ${length === 1 ? "denial" : "denials"} of xenblk's programs since the boot`;
}

/** The audit log and the kernel's log; undefined if neither can be read. */
async function readLogs(machine: Machine): Promise<string | undefined> {
  const audit = machine.tail(AUDIT_LOG, AUDIT_BYTES);
  const kernel = await machine.run(["dmesg"], KERNEL_LOG_MS);
  const printed = typeof kernel === "object" && kernel.stdout !== "" ? kernel.stdout : undefined;
  if (audit === undefined && printed === undefined) return undefined;
  const booted = Number(/^btime (\d+)/m.exec(machine.readText("/proc/stat") ?? "")?.[1] ?? 0);
  const isRecent = (line: string): boolean => Number(/audit\((\d+)/.exec(line)?.[1] ?? booted) >= booted;
  return [...(printed ?? "").split("\n"), ...(audit ?? "").split("\n").filter(isRecent)].join("\n");
}

/** The denials of our programs, oldest first. One that two logs name counts once. */
function denialsIn(log: string): Denial[] {
  const seen = new Set<string>();
  return log.split("\n").flatMap((line): Denial[] => {
    if (!OURS.test(line) || !/avc:\s+denied|apparmor="DENIED"/.test(line)) return [];
    const id = /audit\([^)]*\)/.exec(line)?.[0] ?? line;
    if (seen.has(id)) return [];
    seen.add(id);
    const word = (key: string): string | undefined => new RegExp(`\\b${key}="([^"]*)"`).exec(line)?.[1];
    const program = word("comm") ?? "deno";
    const object = word("name") ?? word("path") ?? "an object without a name";
    if (line.includes("apparmor=")) {
      const profile = word("profile");
      const what = `${program}: ${word("denied_mask") ?? word("operation") ?? "access"} of ${object}`;
      return [{ by: "AppArmor", what, program, ...(profile === undefined ? {} : { profile }) }];
    }
    const rights = /denied\s+\{ ([^}]*) \}/.exec(line)?.[1] ?? "access";
    return line.includes("permissive=1")
      ? []
      : [{ by: "SELinux", what: `${program}: ${rights} of ${object}`, program }];
  });
}

/**
 * The checks of `doctor`: functions that read the machine and return rows. A row that reports a problem has a fix. They
 * read the machine only through {@linkcode Machine}, so that a test can produce every row.
 */

import { XenblkError } from "../../errors.ts";
import type { Refusal } from "../../hypervisor.ts";
import type { DeviceListing } from "../../toolstack/list.ts";
import type { Machine } from "./machine.ts";

/** The result of a check. `fail`: disks cannot be served; `warn`: they can. */
export type Standing = "ok" | "warn" | "fail";

/** One line of the report. */
export interface Finding {
  readonly check: string;
  readonly standing: Standing;
  readonly detail: string;
  /** How to fix the problem; absent if there is none. */
  readonly fix?: string;
}

/** The row of a check that Deno's permissions prevent. Xen's libraries may be able to open the path all the same. */
export function notChecked(check: string, path: string): Finding {
  return notAllowed(check, `to open ${path}`);
}

/** The same; `permission`: what Deno does not permit, as "to open /dev/x". */
export function notAllowed(check: string, permission: string): Finding {
  return {
    check,
    standing: "warn",
    detail: `not checked: Deno was started without the permission ${permission}`,
    fix: "run deno with --allow-all (-A) to check it",
  };
}

/** Deno has the permissions that serving needs. */
export function checkPermissions(machine: Machine): Finding[] {
  return (["read", "write", "ffi", "env"] as const).map((name) => {
    const state = machine.permission(name);
    const check = `permission ${name}`;
    if (state === "granted") return { check, standing: "ok", detail: "granted" };
    if (state === "partial") {
      const fix = name === "ffi"
        ? "run deno with --allow-ffi, not limited to paths: pointers need it whole"
        : undefined;
      const standing = name === "ffi" ? "fail" : "ok";
      return { check, standing, detail: "granted for some paths", ...(fix === undefined ? {} : { fix }) };
    }
    const standing = name === "env" ? "warn" : "fail";
    const limit = name === "ffi" ? ", not limited to paths: pointers need it whole" : "";
    return { check, standing, detail: "Deno was started without it", fix: `run deno with --allow-${name}${limit}` };
  });
}

/** The machine runs under Xen. */
export function checkHypervisor(machine: Machine): Finding[] {
  const [typePath, rolePath] = ["/sys/hypervisor/type", "/proc/xen/capabilities"] as const;
  const check = "hypervisor";
  if (machine.isHidden(typePath)) return [notChecked(check, typePath)];
  const type = machine.readText(typePath);
  if (type !== "xen") {
    return [{
      check,
      standing: "fail",
      detail: type === undefined ? "none seen in /sys/hypervisor" : `/sys/hypervisor/type is ${type}`,
      fix: "boot this machine under Xen (Debian package xen-system-amd64); dry-run works without",
    }];
  }
  const capabilities = machine.readText(rolePath);
  if (capabilities === undefined) {
    if (machine.isHidden(rolePath)) {
      return [{ check, standing: "ok", detail: "xen" }, notChecked("/proc/xen", rolePath)];
    }
    return [
      { check, standing: "ok", detail: "xen" },
      { check: "/proc/xen", standing: "warn", detail: "xenfs is not mounted", fix: "mount -t xenfs xenfs /proc/xen" },
    ];
  }
  const role = capabilities.includes("control_d") ? "control domain" : "not the control domain";
  return [{ check, standing: "ok", detail: `xen, ${role}` }];
}

/** The device nodes that serving needs, and the kernel module of each. */
const DEVICES = [
  { path: "/dev/xen/gntdev", module: "xen-gntdev" },
  { path: "/dev/xen/evtchn", module: "xen-evtchn" },
] as const;

/** The device nodes of the Xen drivers can be opened. */
export function checkDevices(machine: Machine): Finding[] {
  return DEVICES.map(({ path, module }) => {
    const access = machine.access(path);
    if (access === "usable") return { check: path, standing: "ok", detail: "can be opened" };
    if (access === "hidden") return notChecked(path, path);
    if (access === "absent") return { check: path, standing: "fail", detail: "not there", fix: `modprobe ${module}` };
    const fix = `run as root, or give this user read and write access to ${path}`;
    return { check: path, standing: "fail", detail: "not permitted", fix };
  });
}

/** Where xenstored's clients look for it. */
export function xenstoredSocket(machine: Machine): string {
  return machine.environment("XENSTORED_PATH") ??
    `${machine.environment("XENSTORED_RUNDIR") ?? "/run/xenstored"}/socket`;
}

/** xenstored's socket or device exists. Another check tests that xenstored answers. */
export function checkSocket(machine: Machine): Finding {
  const path = xenstoredSocket(machine);
  const check = "xenstored socket";
  const access = machine.access(path);
  if (access === "usable") return { check, standing: "ok", detail: path };
  if (machine.access("/dev/xen/xenbus") === "usable") {
    return { check, standing: "ok", detail: `none at ${path}; /dev/xen/xenbus is used instead` };
  }
  if (access === "hidden") return notChecked(check, path);
  const detail = access === "absent" ? `none at ${path}` : `${path} may not be used`;
  return {
    check,
    standing: "fail",
    detail,
    fix: "start xenstored (on Debian: systemctl start xen), or set XENSTORED_PATH to its socket",
  };
}

/** No disk waits for a backend that nobody runs. `devices` are those in xenstore. */
export function checkWaiting(devices: readonly DeviceListing[]): Finding[] {
  const check = "disks";
  const waiting = devices.filter(({ hint }) => hint !== undefined);
  if (waiting.length === 0) return [{ check, standing: "ok", detail: "none waits for a backend" }];
  return waiting.map(({ name, frontendDomain, hint }) => {
    const [why, fix] = hint!.split("; ") as [string, string];
    return { check, standing: "warn", detail: `${name} of domain ${frontendDomain}: ${why}`, fix };
  });
}

/** Reports the attempt to open a part of the hypervisor; `error` is undefined if it succeeded. */
export function checkPart(check: string, error: unknown): Finding {
  if (error === undefined) return { check, standing: "ok", detail: "works" };
  const fix = error instanceof XenblkError ? error.remedy : undefined;
  const detail = error instanceof Error ? error.message : String(error);
  return { check, standing: "fail", detail, ...(fix === undefined ? {} : { fix }) };
}

/** Engine uring can be used; otherwise engine file is used. `refusal`: why io_uring cannot be used, or undefined. */
export function checkIoUring(refusal: Refusal | undefined): Finding {
  const check = "io_uring";
  if (refusal === undefined) return { check, standing: "ok", detail: "works: engine uring is used" };
  return { check, standing: "warn", detail: `engine file is used: ${refusal.reason}`, fix: refusal.remedy };
}

/**
 * `doctor` on a machine in order, from which one part after the other is taken away: what it finds each time. Where it can
 * be, the reason comes from the code that finds it on a real machine.
 */

import { openLibrary } from "../../../ffi/linux/library.ts";
import type { Finding } from "../../../lib/cli/doctor/checks.ts";
import { readContent } from "../../../lib/cli/config/content.ts";
import { examine, type Probes } from "../../../lib/cli/doctor/examine.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { findProgram } from "../../../lib/storage/qemu/program.ts";
import { runQemuImg } from "../../../lib/storage/qemu/qemu_img.ts";
import { machine, type MachineParts } from "../doctor_machine.ts";

const RUN = "/run/xenblk";
const CONFIG = "/etc/xenblk/config.toml";
const SCRIPT = "/etc/xen/scripts/block-xenblk";
const OWN_SCRIPT = "/usr/share/xenblk/block-xenblk";
const OWN = { entries: [], mode: 0o40700, owner: 0 };
const GIB = 2 ** 30;
const MOUNTS = "22 1 0:21 / / rw - ext4 /dev/vda rw\n24 22 0:23 / /run rw,nosuid - tmpfs tmpfs rw";
const UNIT = {
  LoadState: "loaded",
  ActiveState: "active",
  SubState: "running",
  UnitFileState: "enabled",
  Result: "success",
};

/** A control domain in which everything is there. */
const TEXTS: Readonly<Record<string, string>> = {
  "/sys/hypervisor/type": "xen",
  "/proc/xen/capabilities": "control_d",
  "/dev/xen/gntdev": "",
  "/dev/xen/evtchn": "",
  "/run/xenstored/socket": "",
  "/proc/self/mountinfo": MOUNTS,
  "/proc/self/limits": "Max open files  65536  524288  files",
  "/proc/stat": "btime 1700000000",
  "/sys/module/apparmor/parameters/enabled": "Y",
  [SCRIPT]: "#!/bin/sh",
  [OWN_SCRIPT]: "#!/bin/sh",
};
const PARTS = {
  texts: TEXTS,
  directories: { [RUN]: OWN, "/run/systemd/system": OWN },
  files: { [CONFIG]: { mode: 0o100644, owner: 0 } },
  space: { freeBytes: GIB, freeFiles: Infinity },
  programs: { systemctl: unit({}), dmesg: "[1.0] Linux version 6.1" },
} as const satisfies MachineParts;

function unit(changes: Partial<Record<keyof typeof UNIT | "LimitNOFILE", string>>): string {
  return Object.entries({ ...UNIT, ...changes }).map(([key, value]) => `${key}=${value}`).join("\n");
}

function probes(parts: MachineParts, changes: Partial<Probes> = {}): Probes {
  const works = (): void => {};
  return {
    machine: machine({ ...PARTS, ...parts }),
    ownScript: OWN_SCRIPT,
    parts: { xenstored: works, libxengnttab: works, libxenevtchn: works },
    listDevices: () => [],
    goneDevices: () => () => false,
    uringRefusal: () => undefined,
    findDaemonProgram: () => Promise.resolve({ path: "/usr/bin/qemu-storage-daemon", version: "10.0.2" }),
    qemuImgVersion: () => Promise.resolve("qemu-img version 10.0.2"),
    surveyDaemons: () => Promise.resolve([]),
    readConfig: async (path) => ({ path, ...await readContent("[serve]\nworkers = 2\n") }),
    ...changes,
  };
}

/** A host without some texts. */
function without(...paths: readonly string[]): MachineParts {
  return { texts: Object.fromEntries(Object.entries(TEXTS).filter(([path]) => !paths.includes(path))) };
}

function withTexts(texts: Readonly<Record<string, string>>): MachineParts {
  return { texts: { ...TEXTS, ...texts } };
}

function lackingLibrary(name: string, debianPackage: string): () => void {
  const source = { name, variable: `XENBLK_${name.toUpperCase()}`, sonames: [`${name}.so.none`], debianPackage };
  return () => openLibrary(source, {}).close();
}

/** The parts of the hypervisor, of which one throws. */
function broken(name: string, open: () => void): Partial<Probes> {
  const works = (): void => {};
  return { parts: { xenstored: works, libxengnttab: works, libxenevtchn: works, [name]: open } };
}

function config(text: string): Partial<Probes> {
  return { readConfig: async (path) => ({ path, ...await readContent(text) }) };
}

const APPARMOR = 'audit: type=1400 audit(1700000060.1:55): apparmor="DENIED" operation="open" class="file" ' +
  'profile="/usr/bin/deno" name="/dev/xen/gntdev" pid=812 comm="deno" requested_mask="rw" denied_mask="rw" fsuid=0 ouid=0';
const SELINUX =
  'type=AVC msg=audit(1700000060.1:56): avc:  denied  { read write } for  pid=812 comm="deno" name="gntdev" ' +
  'dev="devtmpfs" ino=5 scontext=system_u:system_r:init_t:s0 tcontext=system_u:object_r:xen_device_t:s0 tclass=chr_file permissive=0';

/** What is taken away, or goes wrong, and the machine then. */
export const LACKING: Readonly<Record<string, Probes>> = {
  "nothing": probes({}),
  "Xen": probes(without("/sys/hypervisor/type")),
  "xenfs": probes(without("/proc/xen/capabilities")),
  "/dev/xen/gntdev": probes(without("/dev/xen/gntdev")),
  "/dev/xen/evtchn": probes(without("/dev/xen/evtchn")),
  "the permission for /dev/xen/gntdev": probes({ denied: ["/dev/xen/gntdev"] }),
  "xenstored's socket": probes(without("/run/xenstored/socket")),
  "xenstored": probes(
    {},
    broken("xenstored", () => {
      throw new XenblkError("Cannot connect to xenstored: no answer at /run/xenstored/socket within 1.5 s", {
        kind: "hypervisor",
        remedy: "see whether xenstored runs (on Debian: systemctl status xen)",
      });
    }),
  ),
  "libxengnttab": probes({}, broken("libxengnttab", lackingLibrary("libxengnttab", "libxengnttab1"))),
  "libxenevtchn": probes({}, broken("libxenevtchn", lackingLibrary("libxenevtchn", "libxenevtchn1"))),
  "io_uring": probes({}, {
    uringRefusal: () => ({
      reason: "kernel.io_uring_disabled=2 forbids it",
      remedy: "sysctl kernel.io_uring_disabled=0",
    }),
  }),
  "memory that may be locked": probes({}, {
    uringRefusal: () => ({
      reason: "there is not enough memory for its rings, or not as much may be locked",
      remedy: "raise the limit of locked memory (LimitMEMLOCK=, ulimit -l), or the control group's of memory",
    }),
  }),
  "qemu-storage-daemon": probes({}, { findDaemonProgram: () => findProgram(() => "/nowhere/qemu-storage-daemon") }),
  "qemu-img": probes({}, {
    qemuImgVersion: async () =>
      (await runQemuImg(["--version"], { what: "Cannot use qemu-img", program: "/nowhere/qemu-img" })).stdout,
  }),
  "space in /run": probes({ space: { freeBytes: 4096, freeFiles: Infinity } }),
  "most space in /run": probes({ space: { freeBytes: 8 * 2 ** 20, freeFiles: Infinity } }),
  "inodes in /run": probes({ space: { freeBytes: GIB, freeFiles: 3 } }),
  "a /run that can be written": probes(withTexts({ "/proc/self/mountinfo": MOUNTS.replace("/run rw", "/run ro") })),
  "the right to write /run/xenblk": probes({ user: 1000 }),
  "the right to create /run/xenblk": probes({ user: 1000, directories: { "/run": { ...OWN, mode: 0o40755 } } }),
  "open files": probes(withTexts({ "/proc/self/limits": "Max open files  1024  4096  files" })),
  "a right configuration": probes({}, config('[serve]\nengine = "zip"\n[[disk]]\ncahce = "none"\n')),
  "the right to read the configuration": probes({ files: { [CONFIG]: "denied" } }),
  "safety of the configuration": probes({ files: { [CONFIG]: { mode: 0o100666, owner: 0 } } }),
  "xl's script of this version": probes(withTexts({ [SCRIPT]: "#!/bin/bash" })),
  "the service's start": probes({ programs: { systemctl: unit({ ActiveState: "inactive" }) } }),
  "the service's start and enabling": probes({
    programs: { systemctl: unit({ ActiveState: "inactive", UnitFileState: "disabled" }) },
  }),
  "the service's enabling": probes({ programs: { systemctl: unit({ UnitFileState: "disabled" }) } }),
  "a service that works": probes({ programs: { systemctl: unit({ ActiveState: "failed", Result: "exit-code" }) } }),
  "a unit that is not masked": probes({ programs: { systemctl: unit({ LoadState: "masked" }) } }),
  "open files of the service": probes({ programs: { systemctl: unit({ LimitNOFILE: "1024" }) } }),
  "an answer of systemctl": probes({ programs: { systemctl: "late" } }),
  "processes of two control sockets": probes({
    directories: {
      ...PARTS.directories,
      [`${RUN}/control`]: { ...OWN, entries: ["71.sock", "72.sock", "73.sock"] },
      "/proc/72": OWN,
    },
  }),
  "AppArmor's permission": probes({ programs: { ...PARTS.programs, dmesg: APPARMOR } }),
  "SELinux's permission": probes(
    withTexts({ "/sys/fs/selinux/enforce": "1", "/var/log/audit/audit.log": `${SELINUX}\n${SELINUX}` }),
  ),
  "Deno's permissions": probes({
    permissions: { read: "prompt", write: "prompt", ffi: "prompt", env: "prompt" },
    hidden: ["/sys/hypervisor/type", "/dev/xen/gntdev", "/dev/xen/evtchn", "/run/xenstored/socket"],
    directories: { ...PARTS.directories, [RUN]: "hidden" },
    files: { [CONFIG]: "hidden" },
    space: "hidden",
    programs: { systemctl: "hidden" },
  }),
};

/** What `doctor` finds besides what is in order, by what was taken away. */
export async function lacking(): Promise<Map<string, readonly Finding[]>> {
  const found = new Map<string, readonly Finding[]>();
  for (const [part, machine] of Object.entries(LACKING)) {
    const rows = await examine(machine);
    found.set(part, part === "nothing" ? rows : rows.filter(({ standing }) => standing !== "ok"));
  }
  return found;
}

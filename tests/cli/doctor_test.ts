/**
 * Every row that `doctor` can show, from invented machines.
 * The real machine is not read.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import * as checks from "../../lib/cli/doctor/checks.ts";
import { machine, type MachineParts } from "./doctor_machine.ts";
import { checkJournals, checkLimits } from "../../lib/cli/doctor/journals.ts";
import { listDevices } from "../../lib/toolstack/list.ts";
import { Rig, until } from "../backend/rig.ts";
import { renderFindings } from "../../lib/cli/doctor/verb.ts";

function standings(findings: readonly checks.Finding[]): string[] {
  return findings.map(({ standing }) => standing);
}

Deno.test("a machine without Xen fails, with what to do", () => {
  const bare = machine({});
  assertEquals(standings(checks.checkHypervisor(bare)), ["fail"]);
  assertEquals(standings(checks.checkDevices(bare)), ["fail", "fail"]);
  assertEquals(checks.checkDevices(bare)[0]!.fix, "modprobe xen-gntdev");
  assertEquals(checks.checkSocket(bare).standing, "fail");
  assertEquals(checks.checkSocket(bare).detail, "none at /run/xenstored/socket");
});

Deno.test("another hypervisor is named", () => {
  const kvm = machine({ texts: { "/sys/hypervisor/type": "kvm" } });
  assertEquals(checks.checkHypervisor(kvm)[0]!.detail, "/sys/hypervisor/type is kvm");
});

Deno.test("a control domain with its devices is all ok", () => {
  const dom0 = machine({
    texts: {
      "/sys/hypervisor/type": "xen",
      "/proc/xen/capabilities": "control_d",
      "/dev/xen/gntdev": "",
      "/dev/xen/evtchn": "",
      "/run/xenstored/socket": "",
      "/proc/self/limits": limits("524288"),
    },
  });
  const findings = [
    ...checks.checkPermissions(dom0),
    ...checks.checkHypervisor(dom0),
    ...checks.checkDevices(dom0),
    checks.checkSocket(dom0),
    ...checkJournals(dom0),
    checks.checkIoUring(undefined),
    ...checkLimits(dom0),
  ];
  assertEquals(new Set(standings(findings)), new Set(["ok"]));
  assertEquals(checks.checkHypervisor(dom0)[0]!.detail, "xen, control domain");
});

Deno.test("in a driver domain without xenfs, doctor says how to mount it and accepts /dev/xen/xenbus", () => {
  const driver = machine({ texts: { "/sys/hypervisor/type": "xen", "/dev/xen/xenbus": "" } });
  assertEquals(standings(checks.checkHypervisor(driver)), ["ok", "warn"]);
  assertEquals(checks.checkSocket(driver).standing, "ok");
});

Deno.test("devices without permission fail, with what to do", () => {
  const user = machine({ texts: { "/dev/xen/evtchn": "" }, denied: ["/dev/xen/gntdev"] });
  const [gntdev, evtchn] = checks.checkDevices(user);
  assertEquals([gntdev!.detail, evtchn!.detail], ["not permitted", "can be opened"]);
  assertEquals(gntdev!.fix, "run as root, or give this user read and write access to /dev/xen/gntdev");
});

Deno.test("the socket is looked for where libxenstore looks", () => {
  assertEquals(checks.xenstoredSocket(machine({ environment: { XENSTORED_RUNDIR: "/tmp/x" } })), "/tmp/x/socket");
  const both = machine({ environment: { XENSTORED_RUNDIR: "/tmp/x", XENSTORED_PATH: "/tmp/y" } });
  assertEquals(checks.xenstoredSocket(both), "/tmp/y");
});

Deno.test("what Deno's permissions hide is not reported as missing", () => {
  const hidden = ["/sys/hypervisor/type", "/dev/xen/gntdev", "/dev/xen/evtchn", "/run/xenstored/socket"];
  const host = machine({ hidden, directories: { "/run/xenblk": "hidden" } });
  const findings = [
    ...checks.checkHypervisor(host),
    ...checks.checkDevices(host),
    checks.checkSocket(host),
    ...checkJournals(host),
  ];
  for (const [index, path] of [...hidden, "/run/xenblk"].entries()) {
    const { standing, detail, fix } = findings[index]!;
    assertEquals(standing, "warn");
    assertEquals(detail, `not checked: Deno was started without the permission to open ${path}`);
    assertEquals(fix, "run deno with --allow-all (-A) to check it");
  }
});

Deno.test("a disk that no backend has taken is a warning with the command to run", async () => {
  await using rig = new Rig();
  assertEquals(standings(checks.checkWaiting(listDevices(rig.toolstack))), ["ok"]);
  rig.attach();
  rig.attach({ kind: "vbd" });
  assertEquals(checks.checkWaiting(listDevices(rig.toolstack)), [{
    check: "disks",
    standing: "warn",
    detail: "xvda of domain 5: no backend of kind vbd3 has answered",
    fix: "check that `xenblk serve --kind vbd3` is running",
  }]);
  rig.serve();
  await until("the disk is offered", () => listDevices(rig.toolstack)[0]!.backendState === "InitWait");
  assertEquals(standings(checks.checkWaiting(listDevices(rig.toolstack))), ["ok"]);
});

Deno.test("missing permissions fail, but a missing env is only a warning", () => {
  const limited = machine({ permissions: { ffi: "prompt", env: "prompt", read: "partial" } });
  assertEquals(standings(checks.checkPermissions(limited)), ["ok", "ok", "fail", "warn"]);
  assertEquals(checks.checkPermissions(machine({ permissions: { ffi: "partial" } }))[2]!.standing, "fail");
});

Deno.test("io_uring that cannot be used is a warning with the reason and what to do", () => {
  assertEquals(checks.checkIoUring(undefined).standing, "ok");
  assertEquals(checks.checkIoUring({ reason: "it is forbidden", remedy: "allow it" }), {
    check: "io_uring",
    standing: "warn",
    detail: "engine file is used: it is forbidden",
    fix: "allow it",
  });
});

/** The part of /proc/self/limits that is read. */
function limits(openFiles: string): string {
  return `Limit  Soft Limit  Hard Limit  Units\nMax processes  96365  96365  processes\nMax open files  ${openFiles}  524288  files`;
}

Deno.test("a low limit of open files is a warning with the number of disks that it allows", () => {
  const at = (value: string): checks.Finding[] =>
    checkLimits(machine({ texts: { "/proc/self/limits": limits(value) } }));
  assertEquals(standings(["1024", "65536", "unlimited"].flatMap(at)), ["warn", "ok", "ok"]);
  assertEquals(at("1024")[0]!.detail, "at most 1024, enough for about 60 disks");
  assertEquals(checkLimits(machine({})), []);
});

const RUN = "/run/xenblk";
const OWN = { entries: [], mode: 0o40700, owner: 0 };
const MOUNTS = "22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda rw\n24 22 0:23 / /run rw,nosuid - tmpfs tmpfs rw\n" +
  "25 22 0:24 / /media ro - iso9660 /dev/sr0 ro";

Deno.test("the directory of journals: absent, in memory, on a disk, read-only, of another user, open to all, not a directory", () => {
  const look = (parts: MachineParts): checks.Finding[] =>
    checkJournals(machine({ texts: { "/proc/self/mountinfo": MOUNTS }, ...parts }));
  const elsewhere = (path: string): Record<string, string> => ({ XENBLK_JOURNAL_DIR: path });
  assertEquals(look({}), [{ check: "journals", standing: "ok", detail: `${RUN} is created when it is first needed` }]);
  const inMemory = look({ directories: { [RUN]: OWN } });
  assertEquals(inMemory, [{ check: "journals", standing: "ok", detail: `${RUN}, on tmpfs` }]);
  assertEquals(look({ directories: { [RUN]: OWN }, texts: {} })[0]!.detail, RUN);
  const bad: [MachineParts, string, string, RegExp][] = [
    [
      { directories: { "/var/x": OWN }, environment: elsewhere("/var/x") },
      "warn",
      "/var/x is on ext4: journals are written to a disk, and stay there after a reboot",
      /^name another directory with XENBLK_JOURNAL_DIR on a tmpfs$/,
    ],
    [
      { environment: elsewhere("/media/x") },
      "fail",
      "/media/x is on a file system that is read-only",
      /^name another directory with XENBLK_JOURNAL_DIR$/,
    ],
    [
      { directories: { [RUN]: OWN }, user: 7 },
      "fail",
      `user 7 may not write to ${RUN}`,
      /^run as user 0, or name/,
    ],
    [{ directories: { [RUN]: "denied" } }, "fail", `no permission to read ${RUN}`, /^run as root/],
    [{ directories: { [RUN]: "other" } }, "fail", `${RUN} is not a directory`, /^move it away/],
    [
      { directories: { [RUN]: { ...OWN, mode: 0o41777 } } },
      "warn",
      `other users may write to ${RUN}, and could damage disks that way`,
      /^chmod 700 \/run\/xenblk$/,
    ],
  ];
  for (const [parts, standing, detail, fix] of bad) {
    const [finding] = look(parts);
    assertEquals([finding!.standing, finding!.detail], [standing, detail]);
    assertMatch(finding!.fix!, fix);
  }
});

Deno.test("journals of removed disks are counted, with the command that removes them", () => {
  const entries = [
    "vbd3-5-51712-0",
    "vbd3-5-51712-latch",
    "my-kind-6-51728-0",
    "vbd3-7-51712-0",
    "vbd3-7-51712.lock",
    "x",
  ];
  const host = machine({ directories: { [RUN]: { ...OWN, entries } } });
  const findings = checkJournals(host, ({ domain }) => domain !== 7);
  assertEquals(standings(findings), ["ok", "warn"]);
  assertEquals(findings[1]!.detail, `3 files of removed disks take up space in ${RUN}`);
  assertEquals(
    findings[1]!.fix,
    `xenblk serve removes them when it starts, or rm ${RUN}/vbd3-5-51712-* ${RUN}/my-kind-6-51728-*`,
  );
  assertEquals(standings(checkJournals(host)), ["ok"]);
});

Deno.test("a part that opens is ok; one that does not shows why, and the remedy as its fix", () => {
  const error = new XenblkError("Cannot load libxengnttab: x", { kind: "hypervisor", remedy: "install it" });
  const findings = [checks.checkPart("libxenevtchn", undefined), checks.checkPart("libxengnttab", error)];
  assertEquals(standings(findings), ["ok", "fail"]);
  assertEquals(
    renderFindings(findings, true),
    "CHECK         STANDING  DETAIL\n" +
      "libxenevtchn  ok        works\n" +
      "libxengnttab  fail      Cannot load libxengnttab: x\n" +
      "                        fix: install it\n",
  );
});

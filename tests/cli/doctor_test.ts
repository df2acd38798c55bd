/**
 * Every row that `doctor` can show, from machines that are made up.
 * Nothing of the real machine is looked at.
 */

import { assertEquals } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import * as checks from "../../lib/cli/doctor_checks.ts";
import { renderFindings } from "../../lib/cli/doctor.ts";

/** A machine with these files; all permitted unless said otherwise. */
function machine(parts: {
  texts?: Record<string, string>;
  denied?: readonly string[];
  environment?: Record<string, string>;
  permissions?: Partial<Record<"read" | "write" | "ffi" | "env", "granted" | "partial" | "prompt">>;
}): checks.Machine {
  const texts = parts.texts ?? {};
  return {
    readText: (path) => texts[path],
    access: (path) => parts.denied?.includes(path) ? "denied" : path in texts ? "usable" : "absent",
    environment: (name) => parts.environment?.[name],
    permission: (name) => parts.permissions?.[name] ?? "granted",
  };
}

function standings(findings: readonly checks.Finding[]): string[] {
  return findings.map(({ standing }) => standing);
}

Deno.test("a machine that is no Xen fails with what to do", () => {
  const bare = machine({});
  assertEquals(standings(checks.checkHypervisor(bare)), ["fail"]);
  assertEquals(standings(checks.checkDevices(bare)), ["fail", "fail", "warn", "warn"]);
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
      "/dev/xen/xenbus": "",
      "/dev/xen/privcmd": "",
      "/run/xenstored/socket": "",
      "/proc/sys/kernel/io_uring_disabled": "0",
    },
  });
  const findings = [
    ...checks.checkPermissions(dom0),
    ...checks.checkHypervisor(dom0),
    ...checks.checkDevices(dom0),
    checks.checkSocket(dom0),
    checks.checkIoUring(dom0, undefined),
  ];
  assertEquals(new Set(standings(findings)), new Set(["ok"]));
  assertEquals(checks.checkHypervisor(dom0)[0]!.detail, "xen, control domain");
});

Deno.test("a driver domain without xenfs is told to mount it, and talks through /dev/xen/xenbus", () => {
  const driver = machine({ texts: { "/sys/hypervisor/type": "xen", "/dev/xen/xenbus": "" } });
  assertEquals(standings(checks.checkHypervisor(driver)), ["ok", "warn"]);
  assertEquals(checks.checkSocket(driver).standing, "ok");
});

Deno.test("devices without permission say so", () => {
  const user = machine({ texts: { "/dev/xen/evtchn": "" }, denied: ["/dev/xen/gntdev"] });
  const [gntdev, evtchn] = checks.checkDevices(user);
  assertEquals([gntdev!.detail, evtchn!.detail], ["not permitted", "can be opened"]);
});

Deno.test("the socket is looked for where libxenstore looks", () => {
  assertEquals(checks.xenstoredSocket(machine({ environment: { XENSTORED_RUNDIR: "/tmp/x" } })), "/tmp/x/socket");
  const both = machine({ environment: { XENSTORED_RUNDIR: "/tmp/x", XENSTORED_PATH: "/tmp/y" } });
  assertEquals(checks.xenstoredSocket(both), "/tmp/y");
});

Deno.test("missing permissions fail, and env is only missed", () => {
  const limited = machine({ permissions: { ffi: "prompt", env: "prompt", read: "partial" } });
  assertEquals(standings(checks.checkPermissions(limited)), ["ok", "ok", "fail", "warn"]);
  assertEquals(checks.checkPermissions(machine({ permissions: { ffi: "partial" } }))[2]!.standing, "fail");
});

Deno.test("io_uring that cannot be used is no obstacle, and the fix is the kernel's switch or the system-call filter", () => {
  assertEquals(checks.checkIoUring(machine({}), undefined).standing, "ok");
  const at = (value: string): checks.Finding =>
    checks.checkIoUring(machine({ texts: { "/proc/sys/kernel/io_uring_disabled": value } }), "it is forbidden");
  const findings = [at("0"), at("1"), at("2"), checks.checkIoUring(machine({}), "it is forbidden")];
  assertEquals(new Set(standings(findings)), new Set(["warn"]));
  assertEquals(findings.map(({ fix }) => fix!.startsWith("sysctl")), [false, true, true, false]);
  assertEquals(findings[0]!.detail, "engine file serves: it is forbidden");
  assertEquals(
    findings[1]!.detail,
    "engine file serves: it is forbidden (kernel.io_uring_disabled=1: privileged processes only)",
  );
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

/**
 * Every row that `doctor` can show about storage daemons.
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { checkDaemons, checkLost, checkProgram, checkQemuImg } from "../../lib/cli/doctor/daemons.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DaemonSeen } from "../../lib/storage/qemu/survey.ts";
import { xenblk } from "./command.ts";

const DAEMON: DaemonSeen = {
  guest: 5,
  pid: 812,
  qemu: "7.2.22",
  alive: true,
  upgraded: false,
  rooted: true,
  disks: ["vbd3/5/51712", "vbd3/5/51728"],
  lost: [],
};

/** The one row for a daemon, as `standing: detail; fix`. */
function row(daemon: Partial<DaemonSeen>, isGone: (device: string) => boolean = () => false): string {
  const rows = checkDaemons([{ ...DAEMON, ...daemon }], isGone);
  return rows.map(({ standing, detail, fix }) => `${standing}: ${detail}; ${fix}`).join("\n");
}

Deno.test("the program's version and path; and where it is missing, the package", () => {
  assertEquals(checkProgram({ path: "/usr/bin/qemu-storage-daemon", version: "10.0.2" }), {
    check: "qemu-storage-daemon",
    standing: "ok",
    detail: "10.0.2, /usr/bin/qemu-storage-daemon",
  });
  const missing = new XenblkError("Cannot find it in /usr/bin", { remedy: "install qemu-system-common" });
  assertEquals(checkProgram(missing), {
    check: "qemu-storage-daemon",
    standing: "warn",
    detail: "raw images only: Cannot find it in /usr/bin",
    fix: "install qemu-system-common",
  });
});

Deno.test("qemu-img's version; and where it is missing, the package", () => {
  assertEquals(checkQemuImg("qemu-img version 7.2.22 (Debian 1:7.2)\nCopyright\n"), {
    check: "qemu-img",
    standing: "ok",
    detail: "7.2.22",
  });
  assertEquals(checkQemuImg(new XenblkError("there is no program qemu-img", { remedy: "install qemu-utils" })), {
    check: "qemu-img",
    standing: "warn",
    detail: "raw images only: there is no program qemu-img",
    fix: "install qemu-utils",
  });
});

Deno.test("without qemu-img doctor says so, and reports the rest", async () => {
  const { stdout, stderr } = await xenblk(["doctor"], { env: { XENBLK_QEMU_IMG: "/nowhere/qemu-img" } });
  assertEquals(stderr, "");
  for (const part of ["/nowhere/qemu-img", "io_uring"]) assertStringIncludes(stdout, part);
});

Deno.test("daemons in order are counted", () => {
  assertEquals(checkDaemons([]).map(({ standing, detail }) => [standing, detail]), [["ok", "none runs"]]);
  assertEquals(checkDaemons([DAEMON, DAEMON])[0]!.detail, "2 run");
});

Deno.test("a daemon of removed devices, a dead, an upgraded and an unconfined one are warnings with what to do", () => {
  assertMatch(
    row({}, (device) => device.endsWith("51728")),
    /^warn: process 812 of domain 5 serves vbd3\/5\/51728, removed since; xenblk serve/,
  );
  assertMatch(row({ disks: [] }), /^warn: process 812 of domain 5 serves no disk; xenblk serve/);
  assertMatch(
    row({ alive: false }),
    /^warn: process 812 of domain 5 died; it served vbd3\/5\/51712, vbd3\/5\/51728; start/,
  );
  assertMatch(row({ alive: false }, () => true), /^warn: process 812 of domain 5 died, and has left files of /);
  assertMatch(row({ upgraded: true }), /runs QEMU 7.2.22, and its package was upgraded since; none is needed; to use/);
  assertMatch(row({ rooted: false }), /can open files beside its disks; let xenblk use mount namespaces/);
});

Deno.test("what a removed device was answered and is not in its image is a warning with the image and the amount", () => {
  const lost = { device: "vbd3/5/51712", name: "image qcow2:/srv/a.qcow2" };
  const { standing, detail, fix } = checkLost(lost, { operations: 12, bytes: 49152 });
  assertEquals(standing, "warn");
  assertEquals(
    detail,
    "12 operations (49152 bytes) that vbd3/5/51712, removed since, was answered are not in image qcow2:/srv/a.qcow2 yet",
  );
  assertMatch(fix!, /^start xenblk serve/);
});

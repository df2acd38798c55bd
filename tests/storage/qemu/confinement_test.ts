/**
 * The commands by which daemons are started, where systemd runs and where it does not.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { startCommand } from "../../../lib/storage/qemu/confinement.ts";
import { RunDirectory } from "../../../lib/storage/qemu/record.ts";

const PROGRAM = { path: "/usr/bin/qemu-storage-daemon", version: "7.2.22" };
const DIRECTORY = new RunDirectory("/run/xenblk/daemons", "5");

/** QEMU's own part: which run directory it belongs to can be seen in `ps`. */
const OWN = [
  PROGRAM.path,
  "--chardev",
  "socket,id=qmp,path=/run/xenblk/daemons/5/io/qmp,server=on,wait=off",
  "--monitor",
  "chardev=qmp",
  "--pidfile",
  "/run/xenblk/daemons/5/io/pid",
];

function command(scope: boolean, rooted: boolean, privileged = true): string[] {
  return startCommand(PROGRAM, { scope, rooted, privileged, lacks: [] }, DIRECTORY);
}

Deno.test("where systemd runs, a daemon has a scope of its own, which stops after the guests", () => {
  const all = command(true, true);
  const scope = all.slice(all.indexOf("systemd-run"), all.indexOf("unshare"));
  assertEquals(scope.filter((arg) => !arg.startsWith("--unit=")), [
    "systemd-run",
    "--scope",
    "--quiet",
    "--collect",
    "--description=Storage daemon of xenblk",
    "--property=Before=xendomains.service",
    "--property=Before=libvirt-guests.service",
    "--",
  ]);
  assertMatch(scope.find((arg) => arg.startsWith("--unit="))!, /^--unit=xenblk-daemon-5-[0-9a-f]+$/);
});

Deno.test("its standard error is a file, and its command line ends with QEMU's own", () => {
  for (const all of [command(true, true), command(false, true), command(false, false), command(false, false, false)]) {
    assertEquals(all.slice(0, 4), ["sh", "-c", 'exec 2>> "$0"; exec "$@"', "/run/xenblk/daemons/5/stderr.log"]);
    assertEquals(all.slice(-OWN.length), OWN);
  }
});

Deno.test("privileges are dropped where there are any; new ones are never got", () => {
  const drop = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all,+dac_override"];
  assertEquals(command(false, false).slice(4, -OWN.length), ["setpriv", "--no-new-privs", ...drop]);
  assertEquals(command(false, false, false).slice(4, -OWN.length), ["setpriv", "--no-new-privs"]);
});

/**
 * `doctor` with one part after the other taken away: the finding names the part and its fix. And on this machine, with
 * file systems that are full or read-only.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Finding } from "../../lib/cli/doctor/checks.ts";
import { checkConfig, checkScript, checkService, checkSockets } from "../../lib/cli/doctor/installed.ts";
import { THIS_MACHINE } from "../../lib/cli/doctor/machine.ts";
import { checkSecurity } from "../../lib/cli/doctor/security.ts";
import { nativeTest } from "../native/harness.ts";
import { xenblkCommand } from "./command.ts";
import { machine } from "./doctor_machine.ts";
import { lacking } from "./golden/lacking.ts";

Deno.test("whatever is taken away is found, with what to do; and nothing else is", async () => {
  const found = await lacking();
  const [whole, ...others] = found.values();
  assertEquals(whole!.filter(({ standing }) => standing !== "ok"), []);
  for (const [part, rows] of [...found].slice(1)) {
    assert(rows.length > 0, part);
    assertEquals(rows.filter(({ fix }) => fix === undefined), [], part);
  }
  // A part has one row, but for faults of the configuration and what all permissions hide.
  assertEquals(others.filter((rows) => rows.length > 1).map((rows) => rows.length), [3, 11]);
});

/** The file system of the journals, as `doctor` sees it with tmpfs mounted there with these options. */
async function onTmpfs(options: string): Promise<Finding[]> {
  const script = 'mount -t tmpfs -o "mode=700,$1" tmpfs "$0" && shift && exec "$@"';
  const directory = await Deno.makeTempDir();
  using _directory = { [Symbol.dispose]: () => Deno.removeSync(directory) };
  const { stdout, stderr } = await new Deno.Command("unshare", {
    args: ["--mount", "sh", "-ec", script, directory, options, ...xenblkCommand(["doctor", "--json"])],
    env: { XENBLK_JOURNAL_DIR: directory },
  }).output();
  const text = new TextDecoder().decode(stdout);
  assert(text.startsWith("["), new TextDecoder().decode(stderr));
  return (JSON.parse(text) as Finding[]).filter(({ check }) => check.startsWith("journal"));
}

nativeTest(
  "a directory of journals without space, without inodes or read-only is named on a real machine",
  async () => {
    const all = ["size=64k,nr_inodes=1000", "size=64m,nr_inodes=8", "size=64m,ro", "size=64m"].map(onTmpfs);
    const [full, few, readOnly, fine] = await Promise.all(all);
    const fail = (rows: readonly Finding[]): string =>
      rows.find(({ standing }) => standing === "fail")?.detail ?? "none";
    assertMatch(fail(full!), /has 6[04]\.0 KiB free: disks are not connected/);
    assertMatch(fail(few!), /has room for 7 files/);
    assertMatch(fail(readOnly!), /is on a file system that is read-only$/);
    assertEquals(fine!.map(({ check, standing }) => [check, standing]), [["journals", "ok"], ["journal space", "ok"]]);
  },
);

Deno.test("without the service manager, its unit, the script or sockets there is nothing to fix", async () => {
  const booted = { "/run/systemd/system": { entries: [], mode: 0o755, owner: 0 } };
  assertEquals(await checkService(machine({})), []);
  assertEquals(await checkService(machine({ directories: booted })), []);
  const unknown = machine({
    directories: booted,
    programs: { systemctl: "LoadState=not-found\nActiveState=inactive" },
  });
  assertEquals((await checkService(unknown)).map(({ detail }) => detail), [
    "no unit xenblk.service: xenblk install writes one",
  ]);
  assertEquals(checkScript(machine({}), "/own").map(({ standing }) => standing), ["ok"]);
  assertEquals(checkSockets(machine({})), []);
  const absent = await checkConfig(machine({}), () => Promise.reject(new Error("not read")));
  assertEquals(absent.map(({ standing }) => standing), ["ok"]);
});

Deno.test("denials of other programs, of an earlier boot, and of a permissive SELinux are none", async () => {
  const denial = (at: number, program: string, permissive = 0): string =>
    `type=AVC msg=audit(${at}.1:5): avc:  denied  { read } for  pid=8 comm="${program}" name="gntdevs" permissive=${permissive}`;
  const rows = async (enforce: string, log: string): Promise<Finding[]> =>
    await checkSecurity(machine({
      texts: { "/sys/fs/selinux/enforce": enforce, "/var/log/audit/audit.log": log, "/proc/stat": "btime 1700000000" },
    }));
  const others = [denial(1700000001, "httpd"), denial(1600000000, "deno"), denial(1700000001, "deno", 1)].join("\n");
  assertEquals((await rows("1", others)).map(({ standing }) => standing), ["ok"]);
  assertEquals((await rows("0", denial(1700000001, "deno"))).map(({ detail }) => detail), [
    "permissive: it denies nothing",
  ]);
  assertEquals((await rows("1", denial(1700000001, "qemu-storage-da")))[0]!.standing, "warn");
  assertEquals(await checkSecurity(machine({})), []);
  const unreadable = await checkSecurity(machine({ texts: { "/sys/module/apparmor/parameters/enabled": "Y" } }));
  assertEquals(unreadable[0]!.detail, "enabled; the log of its denials cannot be read here");
});

Deno.test("a program that does not end is given up, one that is missing is absent", async () => {
  assertEquals(await THIS_MACHINE.run(["sleep", "60"], 50), "late");
  assertEquals(await THIS_MACHINE.run(["/nowhere/program"], 5_000), "absent");
  assertEquals(await THIS_MACHINE.run(["echo", "a"], 20_000), { stdout: "a\n" });
});

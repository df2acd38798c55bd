/**
 * `xenblk install` and `uninstall` in a root of their own: systemd accepts what is installed, the command there runs,
 * nothing of others is overwritten, and removal leaves nothing but what was changed.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { missingProgram } from "../native/harness.ts";
import { type Outcome, xenblk } from "./command.ts";

const UNITS = "/lib/systemd/system";
const IN_CI = Deno.env.get("CI") === "true";

/** An empty root, in which the command is run. */
class Root implements Disposable {
  readonly path = Deno.makeTempDirSync({ prefix: "xenblk-root-" });

  run(verb: "install" | "uninstall", ...args: string[]): Promise<Outcome> {
    return xenblk([verb, "--root", this.path, ...args]);
  }

  /** Paths of all files. */
  files(folder = ""): string[] {
    return [...Deno.readDirSync(this.path + folder)].flatMap(({ name, isDirectory }) => {
      const path = `${folder}/${name}`;
      return isDirectory ? this.files(path) : [path];
    }).sort();
  }

  put(path: string, text: string): void {
    Deno.mkdirSync((this.path + path).replace(/\/[^/]*$/, ""), { recursive: true });
    Deno.writeTextFileSync(this.path + path, text);
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

async function output(program: string, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await new Deno.Command(program, { args, stdin: "null" }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

Deno.test("an installed command runs, a second install changes nothing, and uninstall leaves an empty root", async () => {
  using root = new Root();
  const plan = await root.run("install", "--dry-run");
  assertEquals([plan.status, root.files()], [0, []]);
  const first = await root.run("install");
  assertEquals([first.status, first.stdout], [0, plan.stdout], "as announced");
  assertEquals(await output(`${root.path}/usr/local/bin/xenblk`, "--version"), (await xenblk(["--version"])).stdout);
  const installed = root.files();
  const second = await root.run("install");
  assertEquals([...new Set(second.stdout.split("\n").map((line) => line.split(" ")[0]))], ["unchanged", ""]);
  assertEquals(root.files(), installed);
  assertEquals((await root.run("uninstall")).status, 0);
  assertEquals([...Deno.readDirSync(root.path)], []);
});

const missing = missingProgram("systemd-analyze", "systemd");

Deno.test({
  name: "systemd accepts the installed units, and its tools make /run/xenblk and the group",
  ignore: missing !== undefined && !IN_CI,
  fn: async () => {
    using root = new Root();
    Deno.mkdirSync(`${root.path}${UNITS}`, { recursive: true });
    await output("cp", "-a", `${UNITS}/.`, `${root.path}${UNITS}`);
    assertEquals((await root.run("install", "--prefix", "/opt/x")).status, 0);
    const units = ["xenblk.service", "xenblk@qdisk.service"];
    assertEquals(await output("systemd-analyze", "verify", "--man=no", `--root=${root.path}`, ...units), "");
    for (const unit of ["xenblk.service", "xenblk@.service"]) {
      const text = Deno.readTextFileSync(`${root.path}/etc/systemd/system/${unit}`);
      assertMatch(text, /^ExecStart=\/opt\/x\/bin\/xenblk serve/m);
    }
    await output("systemd-tmpfiles", `--root=${root.path}`, "--create", "xenblk.conf");
    assertEquals(Deno.statSync(`${root.path}/run/xenblk`).mode! & 0o7777, 0o700);
    await output("systemd-sysusers", `--root=${root.path}`, "xenblk.conf");
    assertMatch(Deno.readTextFileSync(`${root.path}/etc/group`), /^xenblk:/m);
  },
});

Deno.test("the unit of another kind has the settings of xenblk.service", () => {
  const settings = (name: string): string[] => {
    const text = Deno.readTextFileSync(new URL(`../../contrib/systemd/${name}`, import.meta.url));
    return text.split("\n").filter((line) =>
      line !== "" && !/^(#|Description=|SyslogIdentifier=|ExecStart=)/.test(line)
    );
  };
  assertEquals(settings("xenblk@.service"), settings("xenblk.service"));
});

Deno.test("a file of others is not overwritten without --force, and nothing else is done then", async () => {
  using root = new Root();
  const script = "/etc/xen/scripts/block-xenblk";
  root.put(script, "theirs\n");
  const refused = await root.run("install");
  assertEquals(refused.status, 1);
  assertStringIncludes(refused.stderr, `Cannot overwrite ${script}: xenblk install has not written what is there`);
  assertEquals(root.files(), [script]);
  assertEquals((await root.run("install", "--force")).status, 0);
  assert(Deno.readTextFileSync(root.path + script).startsWith("#!/bin/sh"));
});

Deno.test("nothing outside of the root is touched, whatever links and manifest it has", async () => {
  using root = new Root();
  using elsewhere = new Root();
  elsewhere.put("/secret", "theirs\n");
  Deno.mkdirSync(`${root.path}/etc/systemd`, { recursive: true });
  Deno.symlinkSync(elsewhere.path, `${root.path}/etc/systemd/system`);
  const refused = await root.run("install");
  assertEquals(refused.status, 1);
  assertStringIncludes(
    refused.stderr,
    `${root.path}/etc/systemd/system is a link that leads out of ${root.path}; make`,
  );
  Deno.removeSync(`${root.path}/etc/systemd/system`);
  // Links within the root are followed; one in the way of a new file is not.
  Deno.mkdirSync(`${root.path}/usr/lib/here`, { recursive: true });
  Deno.symlinkSync("../../usr/lib/here", `${root.path}/etc/systemd/system`);
  Deno.mkdirSync(`${root.path}/usr/local/bin`, { recursive: true });
  Deno.symlinkSync(`${elsewhere.path}/secret`, `${root.path}/usr/local/bin/xenblk.partial`);
  assertEquals((await root.run("install")).status, 0);
  assert(root.files("/usr/lib/here").includes("/usr/lib/here/xenblk.service"));
  assertEquals(elsewhere.files(), ["/secret"]);
  const outside = `/../${elsewhere.path.split("/").at(-1)}/secret`;
  const theirs = await crypto.subtle.digest("SHA-256", Deno.readFileSync(`${elsewhere.path}/secret`));
  const files = { [outside]: new Uint8Array(theirs).toHex() };
  root.put("/var/lib/xenblk/installed.json", JSON.stringify({ format: 1, files, folders: [] }));
  assertStringIncludes((await root.run("uninstall")).stderr, "Cannot understand");
  assertEquals(Deno.readTextFileSync(`${elsewhere.path}/secret`), "theirs\n");
});

Deno.test("a root that is not there is refused, and one with spaces is served", async () => {
  using root = new Root();
  const absent = await xenblk(["install", "--root", `${root.path}/nosuch`]);
  assertEquals([absent.status, root.files()], [1, []]);
  assertStringIncludes(absent.stderr, `Cannot use root ${root.path}/nosuch: `);
  const spaced = `${root.path}/a b\'c`;
  Deno.mkdirSync(spaced);
  assertEquals((await xenblk(["install", "--root", spaced])).status, 0);
  assertEquals(await output(`${spaced}/usr/local/bin/xenblk`, "--version"), (await xenblk(["--version"])).stdout);
  assertEquals((await xenblk(["uninstall", "--root", spaced])).status, 0);
  assertEquals([...Deno.readDirSync(spaced)], []);
});

Deno.test("what was changed after installation is kept and named; an update replaces only what was not", async () => {
  using root = new Root();
  const unit = "/etc/systemd/system/xenblk.service";
  await root.run("install");
  const command = `${root.path}/usr/local/bin/xenblk`;
  root.put(unit, "changed\n");
  assertStringIncludes((await root.run("install")).stderr, `Cannot overwrite ${unit}`);
  // Another prefix is another plan: the old command and its completion go.
  assertEquals((await root.run("install", "--prefix", "/opt", "--force")).status, 0);
  assert(!root.files().includes("/usr/local/bin/xenblk"), command);
  root.put(unit, "changed again\n");
  const removal = await root.run("uninstall");
  assertMatch(removal.stdout, new RegExp(`^kept +${root.path}${unit}$`, "m"));
  assertEquals(root.files(), [unit]);
});

Deno.test("a service that runs is not uninstalled, and a host with the Debian package is left alone", async () => {
  using root = new Root();
  await root.run("install");
  Deno.mkdirSync(`${root.path}/run/systemd/units`, { recursive: true });
  Deno.symlinkSync("0123456789abcdef", `${root.path}/run/systemd/units/invocation:xenblk.service`);
  const refused = await root.run("uninstall");
  assertEquals(refused.status, 1);
  assertStringIncludes(refused.stderr, "xenblk.service still runs");
  assertStringIncludes(refused.stderr, "systemctl disable --now xenblk.service");
  root.put("/var/lib/dpkg/info/xenblk.list", "/.\n");
  const beside = await root.run("install");
  assertEquals(beside.status, 1);
  assertStringIncludes(beside.stderr, "the Debian package xenblk is installed");
});

/**
 * What the Debian package is made from: the version of Deno, the packages that deno.lock names, and the scripts. The
 * package itself is tried by debian.ts.
 */

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { DENO, lockedPackages } from "../../pack/deb/fetched.ts";
import { readProject } from "../../pack/manifest.ts";
import { ROOT } from "../house/source.ts";

/** A lock as Deno writes it. */
const LOCK = JSON.stringify({
  version: "5",
  npm: {
    "@a/one@1.0.0": { integrity: "sha512-one", dependencies: ["two", "three@3.1.0"] },
    "two@2.0.0": { integrity: "sha512-two" },
    "three@3.1.0": { integrity: "sha512-three", dependencies: ["two"] },
    "three@3.2.0": { integrity: "sha512-other" },
    "four@4.0.0_two@2.0.0": { integrity: "sha512-four", dependencies: ["three@3.2.0"] },
  },
});

Deno.test("the packages of the lock are those that the code imports, and what these need", () => {
  assertEquals(lockedPackages(LOCK, new Map([["@a/one", "1.0.0"]])), [
    { name: "@a/one", version: "1.0.0", integrity: "sha512-one" },
    { name: "two", version: "2.0.0", integrity: "sha512-two" },
    { name: "three", version: "3.1.0", integrity: "sha512-three" },
  ]);
});

Deno.test("a package that the lock lacks, or that is needed in two versions, is refused", () => {
  assertThrows(() => lockedPackages(LOCK, new Map([["five", "1.0.0"]])), XenblkError, "deno.lock has no five@1.0.0");
  const both = new Map([["@a/one", "1.0.0"], ["four", "4.0.0"]]);
  assertThrows(() => lockedPackages(LOCK, both), XenblkError, "three is needed in two versions");
});

Deno.test("the package has the Deno of .dvmrc", () => {
  assertEquals(DENO.version, Deno.readTextFileSync(`${ROOT}.dvmrc`).trim());
});

Deno.test("the shell finds no fault in the scripts of the package", async () => {
  const folder = `${ROOT}pack/deb/debian/`;
  const scripts = ["preinst", "postinst", "prerm", "postrm", "launcher.sh", "common.sh"].map((name) => folder + name);
  for (const script of scripts) {
    const { code, stderr } = await new Deno.Command("sh", { args: ["-n", script] }).output();
    assertEquals([code, new TextDecoder().decode(stderr)], [0, ""], script);
  }
});

Deno.test("each launcher gives V8 the same flags, and Deno's V8 knows them", async () => {
  const launchers = ["pack/deb/debian/launcher.sh", "pack/launcher.ts", "lib/cli/install/plan.ts"];
  const flags = launchers.map((path) => /--v8-flags=[^\s"]+/.exec(Deno.readTextFileSync(ROOT + path))?.[0]);
  assertEquals(new Set(flags).size, 1);
  const run = async (flag: string): Promise<string> => {
    const command = new Deno.Command(Deno.execPath(), { args: ["eval", flag, "0"], env: { NO_COLOR: "1" } });
    return new TextDecoder().decode((await command.output()).stderr);
  };
  assertEquals(await run(flags[0]!), "");
  assertStringIncludes(await run("--v8-flags=--no-such-flag"), "no-such-flag");
});

Deno.test("deno install -g in a checkout gives the command, and deno uninstall -g takes it away", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${Deno.execPath().replace(/\/[^/]+$/, "")}:${Deno.env.get("PATH")}`;
  const run = async (program: string, ...args: readonly string[]): Promise<string> => {
    const env = { PATH: path, NO_COLOR: "1" };
    const options: Deno.CommandOptions = { args: [...args], cwd: ROOT, env, stdin: "null" };
    const { success, stdout, stderr } = await new Deno.Command(program, options).output();
    const text = new TextDecoder().decode(stdout);
    if (!success) throw new Error(`${program} ${args.join(" ")}: ${text}${new TextDecoder().decode(stderr)}`);
    return text;
  };
  try {
    const flags = ["-A", "--root", folder, "--name", "xenblk", "--config", "deno.json"];
    await run(Deno.execPath(), "install", "-g", ...flags, "cli.ts");
    assertEquals(await run(`${folder}/bin/xenblk`, "--version"), `xenblk ${readProject(ROOT).version}\n`);
    await run(Deno.execPath(), "uninstall", "-g", "--root", folder, "xenblk");
    assertEquals([...Deno.readDirSync(`${folder}/bin`)], []);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

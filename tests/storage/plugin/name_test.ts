/**
 * How a disk in TypeScript is named: `plugin:` on the command line, in xl's syntax and in params; what xenstore may name;
 * which modules are refused before anything of them is run.
 */

import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { findModule } from "../../../lib/storage/image/plugin_name.ts";
import { imageName, imageText, paramsOf, parseImage, parseParams } from "../../../lib/storage/image/spec.ts";
import { openDisk } from "../../../lib/storage/open.ts";
import { type DeniedAccess, deniedAccess } from "../../../lib/storage/plugin/denied.ts";
import { readPermission } from "../../../lib/storage/plugin/settings.ts";
import { checkName } from "../../../lib/storage/qemu/allow.ts";
import { Folder } from "../rig.ts";

const nothing = (): Promise<boolean> => Promise.resolve(false);

async function lineOf(act: () => Promise<unknown>): Promise<string> {
  return (await assertRejects(act, XenblkError)).line;
}

Deno.test("a plugin has a module and what follows the question mark, in every way to name an image", async () => {
  const plugin = { format: "plugin", target: "./disk.ts?a=1,b=/c" };
  assertEquals(await parseImage("plugin:./disk.ts?a=1,b=/c", nothing), plugin);
  assertEquals(await parseImage("format=plugin,access=ro,target=./disk.ts?a=1,b=/c", nothing), {
    ...plugin,
    readOnly: true,
  });
  assertEquals(await parseParams("aio:plugin:./disk.ts?a=1,b=/c"), plugin, "xl knows no such format");
  assertEquals(imageText(plugin), "plugin:./disk.ts?a=1,b=/c");
});

Deno.test("params name the module by its absolute path, without links", async () => {
  using folder = new Folder();
  const path = folder.file("disk.ts", 1);
  Deno.symlinkSync(path, `${folder.path}/link.ts`);
  const name = imageName(await parseImage(`plugin:${folder.path}/link.ts?http://host/a?b`));
  assertEquals(await paramsOf(name), `plugin:${path}?http://host/a?b`);
});

Deno.test("what can be no module is refused before anything is run", async () => {
  using folder = new Folder();
  const image = folder.file("disk.img", 1);
  assertEquals(
    await lineOf(() => findModule("missing.ts?x")),
    `Cannot open plugin missing.ts: there is no such file; the path is relative to ${Deno.cwd()}; name the module's file, ` +
      "or its absolute path",
  );
  assertEquals(
    await lineOf(() => findModule("/nowhere/disk.ts")),
    "Cannot open plugin /nowhere/disk.ts: there is no such file; name the module's file",
  );
  assertEquals(
    await lineOf(() => findModule("https://host/disk.ts")),
    "Cannot open plugin https://host/disk.ts: it is a URL, and a plugin is a local file; save the module and name its path",
  );
  assertEquals(
    await lineOf(() => findModule(image)),
    `Cannot open plugin ${image}: its name does not end like that of a module; name a .ts or .js file`,
  );
  assertEquals(
    await lineOf(() => findModule("?x")),
    "Cannot open plugin : it names no module; write plugin:./my_disk.ts",
  );
});

Deno.test("a password after the question mark is refused, because params can be read by others", async () => {
  assertEquals(
    await lineOf(() => parseImage("plugin:./disk.ts?https://me:hunter2@host/", nothing)),
    "Cannot use image plugin:./disk.ts?https://me:***@host/: it contains a password, which others could read in xenstore; " +
      "have the plugin read it from a file or a variable, allowed with --plugin-allow read=PATH or env=NAME",
  );
});

Deno.test("xenstore may name a plugin only by a pattern for plugins; a path that leads upwards matches no star", () => {
  const allows = (target: string, ...patterns: string[]): boolean => {
    try {
      checkName({ format: "plugin", target }, patterns);
      return true;
    } catch {
      return false;
    }
  };
  const path = "/srv/disks/a.ts";
  assertEquals(allows(path), false);
  assertEquals(allows(path, "**", "/srv/**"), false, "images, not programs");
  assertEquals(allows(path, "plugin:/srv/disks/*"), true);
  assertEquals(allows(`${path}?http://host/x`, "plugin:/srv/disks/*"), true, "its argument is its own");
  assertEquals(allows(`${path}?one`, "plugin:/srv/disks/*?one"), true);
  assertEquals(allows(`${path}?two`, "plugin:/srv/disks/*?one"), false);
  assertEquals(allows("/srv/disks/b/a.ts", "plugin:/srv/disks/*"), false);
  for (const up of ["/srv/disks/../evil.ts", "/srv/disks/./a.ts", "/srv/disks//a.ts", "srv/a.ts", "/srv/disks/.."]) {
    assertEquals(allows(up, "plugin:/srv/disks/**", "plugin:**"), false, up);
    assertEquals(allows(up, `plugin:${up}`), true, "named as it is");
  }
  assertEquals(
    assertThrows(() => checkName({ format: "plugin", target: path }, []), XenblkError).line,
    "Cannot use image plugin:/srv/disks/a.ts: xenstore names a program, which is not allowed; allow it with --allow-image " +
      "plugin:/srv/disks/a.ts if it is meant",
  );
});

Deno.test("opening asks whether the name is allowed, and says where no plugin can be started", async () => {
  const request = { format: "plugin", target: "/srv/a.ts", readOnly: false, engine: "auto" } as const;
  assertEquals(
    await lineOf(() => openDisk(request)),
    "Cannot open image plugin:/srv/a.ts: this process starts no plugins; start deno with all permissions (-A); on a " +
      "test host, pass `plugins` to testHost (docs/plugins.md)",
  );
  const openPlugin = (): never => {
    throw new Error("it was asked to run a program that is not allowed");
  };
  const line = await lineOf(() => openDisk({ ...request, allowImages: ["/srv/**"] }, { openPlugin }));
  assertEquals(line.includes("xenstore names a program, which is not allowed"), true);
  const named = await lineOf(() => openDisk({ ...request, engine: "qemu" }, { openPlugin }));
  assertEquals(named.endsWith("engine qemu does not serve this format; use engine auto"), true);
});

Deno.test("permissions are those that a plugin can be given", () => {
  for (
    const text of ["net", "net=[::1]:80", "read", "read=/srv/a, b", "write=/srv", "env=HOME", "sys=hostname"]
  ) {
    assertEquals(readPermission(text), text);
  }
  for (
    const text of [
      "run",
      "run=ls",
      "ffi",
      "all",
      "",
      "net=",
      "read=here",
      "net=a b",
      "net=a,b",
      "--allow-net",
      "write=",
    ]
  ) {
    assertEquals(readPermission(text), undefined, text);
  }
});

Deno.test("an error of Deno's permissions has the option that allows the access, not Deno's", () => {
  const denied = (access: string, flag: string): DeniedAccess | undefined =>
    deniedAccess(`Requires ${access}, run again with the --allow-${flag} flag`);
  assertEquals(denied('net access to "127.0.0.1:80"', "net"), {
    message: 'Requires net access to "127.0.0.1:80"',
    remedy: "allow it with --plugin-allow net=127.0.0.1:80",
  });
  const remedy = (access: string, flag: string): string | undefined => denied(access, flag)?.remedy;
  assertEquals(remedy('read access to "/srv/a b"', "read"), "allow it with --plugin-allow 'read=/srv/a b'");
  assertEquals(remedy("write access to <TMP>", "write"), "allow it with --plugin-allow write");
  assertEquals(remedy("env access", "env"), "allow it with --plugin-allow env");
  assertMatch(remedy('run access to "ls"', "run")!, /^have the plugin do without/);
  assertMatch(remedy('all access to "/dev/shm/x"', "all")!, /^use a file elsewhere/);
  assertEquals(deniedAccess("no such table: blocks"), undefined);
});

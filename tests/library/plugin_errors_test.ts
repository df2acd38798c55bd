/**
 * What the author of a disk in TypeScript is told of a mistake: in the module, in what it opens, and in a method.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { libc } from "../../ffi/linux/libc.ts";
import { openNativePlatform } from "../../ffi/platform.ts";
import { SYSTEM_CLOCK } from "../../lib/clock.ts";
import type { Logger } from "../../lib/log.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { openPluginDisk } from "../../lib/storage/plugin_disk.ts";
import { DEFAULT_PLUGIN_SETTINGS } from "../../lib/storage/plugin/settings.ts";
import { XenblkError } from "../../mod.ts";
import { Folder } from "./programs.ts";

// For all tests: libraries stay loaded.
libc();

/** Modules by name, beside each other. */
function modules(texts: Readonly<Record<string, string>>): Folder {
  const importing = (text: string): string => `import { defineDisk } from "xenblk";\n${text}\n`;
  return new Folder(Object.fromEntries(Object.entries(texts).map(([name, text]) => [`${name}.ts`, importing(text)])));
}

/** A module with that for `open`. */
function opening(body: string): string {
  return `export default defineDisk({ open(target) { ${body} } });`;
}

async function open(module: string, lines: string[] = []): Promise<Disk> {
  const say = (line: string): void => void lines.push(line);
  const log: Logger = { debug: say, info: say, warning: say, error: say };
  const { plugins } = openNativePlatform();
  const request = { format: "plugin", target: module, readOnly: false, engine: "auto" } as const;
  return await openPluginDisk(request, { plugins, settings: DEFAULT_PLUGIN_SETTINGS, clock: SYSTEM_CLOCK, log });
}

Deno.test("a mistake in the module is reported with the plugin's own message and line", async () => {
  using folder = modules({
    "throws": 'throw new Error("no such\\nluck");',
    "syntax": "export default defineDisk({;",
    "nothing": "defineDisk({ open() { return { sizeBytes: 512, read() {} }; } });",
    "unmarked": "export default { open() { return { sizeBytes: 512, read() {} }; } };",
    "missing": 'import { x } from "./x.ts"; export default x;',
    "refuses": opening('throw new Error("no " + target);'),
    "unread": opening("return { sizeBytes: 512 };"),
    "text": opening('return { sizeBytes: "1M", read() {} };'),
    "untold": opening("throw Object.create(null);"),
    "tiny": opening("return { sizeBytes: 511, read() {} };"),
    "curious": opening('return Deno.readTextFileSync("/etc/hostname");'),
    "nought": opening("return undefined;"),
    "wide": opening("return { sizeBytes: 2n ** 20n, read() {} };"),
    "unclear": opening('throw new Error("a\\u001b[31m\\u009b\\u2028b");'),
    "big": opening("return new Uint8Array(2 ** 32);"),
  });
  const line = async (name: string): Promise<string> => {
    const { line } = await assertRejects(() => open(`${folder.path}/${name}.ts?luck`), XenblkError);
    return line.replaceAll(`image plugin:${folder.path}/${name}.ts?luck`, "IT").replaceAll(folder.path, "");
  };
  const names = ["throws", "syntax", "nothing", "unmarked", "missing", "refuses", "unread", "text", "tiny"];
  const lines = await Promise.all([...names, "curious", "nought", "wide", "unclear", "big", "untold"].map(line));
  const fixIt = "; correct the module; `deno check` finds most mistakes";
  const noDisk = "Cannot open IT: its module exports no disk; write `export default defineDisk({ open: ... })`";
  assertEquals(lines[0], `Cannot open IT: its module cannot be imported: no such luck (file:///throws.ts:2:7)${fixIt}`);
  assertMatch(
    lines[1]!,
    /^Cannot open IT: its module cannot be imported: SyntaxError: .* \(file:\/\/\/syntax\.ts:2:28\); correct /,
  );
  assertEquals([lines[2], lines[3]], [noDisk, noDisk]);
  assertEquals(
    lines[4],
    `Cannot open IT: its module cannot be imported: Module not found "file:///x.ts" (file:///missing.ts:2:19)${fixIt}`,
  );
  assertEquals(lines[5], "Cannot open IT: its open failed: no luck (file:///refuses.ts:2:50)");
  assertMatch(lines[6]!, /^Cannot open IT: its disk has no method read; have open return an object with /);
  assertMatch(
    lines[7]!,
    /^Cannot open IT: its sizeBytes is "1M"; give the disk a size in bytes: a number from 512 on$/,
  );
  assertMatch(lines[8]!, /^Cannot open IT: its sizeBytes is 511; /);
  assertEquals(
    lines[9],
    'Cannot open IT: its open failed: Requires read access to "/etc/hostname" (file:///curious.ts:2:56); ' +
      "allow it with --plugin-allow read=/etc/hostname",
  );
  assertEquals(lines[10], "Cannot open IT: its open failed: it returned undefined, not a disk");
  assertMatch(lines[11]!, /^Cannot open IT: its sizeBytes is "1048576n"; give the disk a size in bytes: a number /);
  assertMatch(lines[12]!, /^Cannot open IT: its open failed: a\\x1b\[31m\\x9b\\x2028b \(file:/);
  assertMatch(
    lines[13]!,
    /its open failed: Array buffer allocation failed \S+; allow it more memory with --plugin-memory$/,
  );
  assertEquals(lines[14], "Cannot open IT: its open failed: an error without a text");
});

Deno.test("what is left over behind the last sector is not served, with a warning; the log has what the plugin prints", async () => {
  using folder = modules({ "odd": opening('console.log("hello"); return { sizeBytes: 1300, read() {} };') });
  const lines: string[] = [];
  await using disk = await open(`${folder.path}/odd.ts`, lines);
  assertEquals([disk.properties.sectors, disk.properties.readOnly, disk.properties.discard], [2, true, undefined]);
  const name = `image plugin:${folder.path}/odd.ts`;
  assertEquals(lines.includes(`${name}: its last 276 bytes are not served: its size is not a multiple of 512`), true);
  assertEquals(lines.some((line) => line.endsWith("hello")), true);
});

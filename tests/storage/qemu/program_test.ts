/**
 * Finding qemu-storage-daemon: by its variable, on PATH, and what is said where it is missing or does not work.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { findProgram, PROGRAM_VARIABLE } from "../../../lib/storage/qemu/program.ts";
import { runWithin } from "../../../lib/storage/qemu/command.ts";
import { Folder } from "../rig.ts";

/** A program that does what the shell's text says. */
function program(folder: Folder, text: string): string {
  const path = folder.file("qemu-storage-daemon", new TextEncoder().encode(`#!/bin/sh\n${text}\n`));
  Deno.chmodSync(path, 0o755);
  return path;
}

const VERSION = 'echo "qemu-storage-daemon version 10.0.2 (Debian 1:10.0.2+ds-2)"';

Deno.test("the program that the variable names comes before PATH", async () => {
  using one = new Folder();
  using two = new Folder();
  const named = program(one, VERSION);
  const found = await findProgram((name) => name === PROGRAM_VARIABLE ? named : (program(two, VERSION), two.path));
  assertEquals(found, { path: named, version: "10.0.2" });
});

Deno.test("PATH comes before the usual places", async () => {
  using folder = new Folder();
  const path = program(folder, VERSION);
  assertEquals((await findProgram((name) => name === "PATH" ? `relative:${folder.path}` : undefined)).path, path);
});

Deno.test("a program that is missing, broken, old or something else is an error with a remedy", async () => {
  using folder = new Folder();
  const named = (name: string): string | undefined =>
    name === PROGRAM_VARIABLE ? `${folder.path}/qemu-storage-daemon` : undefined;
  const refused = async (pattern: RegExp): Promise<void> => {
    assertMatch((await assertRejects(() => findProgram(named), XenblkError)).line, pattern);
  };
  await refused(/^Cannot find qemu-storage-daemon: XENBLK_QEMU_STORAGE_DAEMON names .*, which is no file; set it/);
  program(folder, "echo broken >&2; exit 3");
  await refused(/^Cannot use .*: broken; try/);
  program(folder, "echo hello");
  await refused(/^Cannot use .*: it answers hello.*; try/);
  program(folder, "echo version 6.2.0");
  await refused(/^Cannot use .*: it is version 6.2.0, and 7.0 is the oldest that works; install/);
});

Deno.test("a command that does not end is killed in time", async () => {
  const { success, reason } = await runWithin("sleep", ["1000"], 30);
  assertEquals([success, reason], [false, "it has not ended for 0.03 s"]);
});

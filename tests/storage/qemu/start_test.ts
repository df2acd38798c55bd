/**
 * Daemons that do not start as they should, pretended by a script: each is an error that says why, and none is left.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { SILENT } from "../../../lib/log.ts";
import { StorageDaemons } from "../../../lib/storage/qemu/daemons.ts";
import { PROGRAM_VARIABLE } from "../../../lib/storage/qemu/program.ts";
import { Folder } from "../rig.ts";

/** Opens a disk with a daemon that does what the shell's text says; returns the error's line. */
async function startFails(text: string, startMs = 10_000): Promise<string> {
  using folder = new Folder();
  const script = `#!/bin/sh\n[ "$1" = --version ] && { echo version 9.9.9; exit; }\n${text}\n`;
  const program = folder.file("daemon", new TextEncoder().encode(script));
  Deno.chmodSync(program, 0o755);
  await using daemons = new StorageDaemons({
    directory: `${folder.path}/run`,
    locks: { lock: () => ({ [Symbol.dispose]: (): void => {} }) },
    vhost: { connect: () => Promise.reject(new Error("not reached")) },
    variable: (name) => name === PROGRAM_VARIABLE ? program : undefined,
    logger: SILENT,
    startMs,
    requestMs: 300,
  });
  const owner = { guest: 5, device: "vbd3/5/51712" };
  const graph = { nodes: [], top: "top", files: [], secrets: [] };
  const request = { graph, readOnly: false, name: "image qcow2:/a", owner };
  const { line } = await assertRejects(() => daemons.open(request), XenblkError);
  const pid = /process (\d+)/.exec(line)![1]!;
  assertEquals(/^\d+ \(.*\) [^Z]/.test(statOf(pid)), false, "the daemon is left");
  return line;
}

function statOf(pid: string): string {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/stat`);
  } catch {
    return "";
  }
}

Deno.test("a daemon that ends at its start: its status and its last words", async () => {
  assertMatch(
    await startFails("echo first >&2; echo 'cannot load a library' >&2; exit 3"),
    /^Cannot start the storage daemon of domain 5 \(process \d+\): it exited with status 3: first; cannot load a library; start/,
  );
  assertMatch(await startFails("kill -SEGV $$"), /it was ended with SIGSEGV; start qemu-storage-daemon by hand/);
});

Deno.test("a daemon that hangs at its start is given up and ended", async () => {
  assertMatch(
    await startFails("exec sleep 1000", 300),
    /it has not opened its socket for 0\.3 s; look at the host's load/,
  );
});

/**
 * `dry-run plugin:...` as the author of a disk in TypeScript runs it first: every byte is verified, through the disk itself;
 * a disk that forgets a byte and a method that throws are reported with what the author needs.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { Folder } from "../library/programs.ts";
import { xenblk } from "./command.ts";

/** A disk of 1 MiB that is wrong in the way that its target names. */
const FAULTY = `import { defineDisk } from "xenblk";

export default defineDisk({
  open(target) {
    const data = new Uint8Array(1 << 20);
    return {
      sizeBytes: data.length,
      read(offset, into) {
        into.set(data.subarray(offset, offset + into.length));
        if (target === "flip" && offset <= 51200 && 51200 < offset + into.length) into[51200 - offset] ^= 1;
      },
      async write(offset, from) {
        await Promise.resolve();
        if (target === "full" && offset > 1e6) throw Object.assign(new Error("no room"), { code: "ENOSPC" });
        data.set(from, offset);
      },
    };
  },
});
`;

Deno.test("dry-run verifies a plugin through itself: what it held, what was written, what it holds", async () => {
  const image = `plugin:${ROOT}examples/compressed_disk.ts?2M`;
  const { status, stdout, stderr } = await xenblk(["dry-run", "--write", "--json", "--requests=400", image]);
  assertEquals([status, stderr], [0, ""]);
  const { phases, sizeBytes } = JSON.parse(stdout);
  const names = phases.map(({ name }: { name: string }) => name);
  assertEquals([sizeBytes, ...names], [2 << 20, "first read", "random", "read back"]);
  assertEquals([phases[0].requests, phases[1].requests, phases[2].verifiedSectors], [47, 400, 4096]);
});

Deno.test("dry-run finds a byte that a plugin changes, and names the sector", async () => {
  using folder = new Folder({ "faulty.ts": FAULTY });
  const image = `format=plugin,target=${folder.path}/faulty.ts?flip`;
  const { status, stderr } = await xenblk(["dry-run", "--write", "--requests=2000", image]);
  assertEquals(status, 1);
  assertMatch(stderr, /^xenblk: Cannot verify plugin:\S+\?flip: sector 100 read back as /);
});

Deno.test("dry-run shows what a method throws, with its message and line, and counts the request as failed", async () => {
  using folder = new Folder({ "faulty.ts": FAULTY });
  const image = `plugin:${folder.path}/faulty.ts?full`;
  const { status, stderr } = await xenblk(["dry-run", "--write", "--requests=1000", image]);
  assertEquals(status, 1);
  assertMatch(stderr, /write at byte 10\d{5} failed: no room \(file:\/\/\S+faulty\.ts:14:\d+\)$/m);
  assertMatch(stderr, /WRITE at sector \d+: I\/O failed: ENOSPC/);
  assertMatch(stderr, /^xenblk: Cannot verify \S+: requests failed: \d+ write \(status -1\)$/m);
});

Deno.test("wrong options for plugins are usage errors, a missing module is none; without permissions the way out is said", async () => {
  const outcome = async (args: readonly string[], permissions?: readonly string[]): Promise<string> => {
    const { status, stdout, stderr } = await xenblk(["dry-run", ...args], permissions && { permissions });
    assertEquals(stdout, "");
    return `${status} ${stderr}`;
  };
  const compressed = `plugin:${ROOT}examples/compressed_disk.ts`;
  const outcomes = await Promise.all([
    outcome(["--plugin-allow=run", compressed]),
    outcome(["--plugin-memory=1M", compressed]),
    outcome(["plugin:/nowhere/disk.ts"]),
    outcome([compressed], [`--allow-read=${ROOT}`]),
    outcome(["--write", `plugin:${ROOT}examples/http_disk.ts?http://127.0.0.1/`]),
  ]);
  assertMatch(
    outcomes[0]!,
    /^2 xenblk: Cannot use --plugin-allow=run: it takes one of net, net=HOST:PORT, read=\/PATH,/,
  );
  assertMatch(outcomes[1]!, /^2 xenblk: Cannot use --plugin-memory=1M: it takes a size .* from 32\.0 MiB /);
  assertMatch(
    outcomes[2]!,
    /^1 xenblk: Cannot open plugin \/nowhere\/disk\.ts: there is no such file; name the module/,
  );
  assertMatch(outcomes[3]!, /^1 xenblk: Cannot open image \S+: this process starts no plugins; start deno with all /);
  assert(outcomes[4]!.endsWith("allow it with --plugin-allow net=127.0.0.1:80\n"), outcomes[4]);
});

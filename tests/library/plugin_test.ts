/**
 * Disks in TypeScript as their authors and users see them: the examples, each served to a simulated guest from a process of
 * its own, which verifies every byte; a disk that grows; and what is said of a module that is no disk.
 */

import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { libc } from "../../ffi/linux/libc.ts";
import { openNativePlatform } from "../../ffi/platform.ts";
import type { LoadOutcome } from "../../lib/guest/load_types.ts";
import { attach, type AttachedDisk, type AttachOptions, XenblkError } from "../../mod.ts";
import { ROOT } from "../house/source.ts";
import { type Guest, SimulatedHost } from "./host.ts";
import { Folder } from "./programs.ts";

const MIB = 2 ** 20;
const MIXED = { flushEvery: 40, discardEvery: 30, requests: 400 };

// For all tests: libraries stay loaded.
libc();

/** Attaches a plugin, on a simulated host that can run it. */
async function attachPlugin(
  host: SimulatedHost,
  image: string,
  options: Partial<AttachOptions> = {},
): Promise<AttachedDisk> {
  const platform = Object.assign(host.platform, { plugins: openNativePlatform().plugins });
  return await attach({ ...host.options(image), ...options, platform });
}

async function waitUntil(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** The same, with the guest that uses the disk. */
async function attached(
  host: SimulatedHost,
  image: string,
  options: Partial<AttachOptions> = {},
): Promise<{ readonly disk: AttachedDisk; readonly guest: Guest }> {
  const guest = host.guest("xvda");
  const [disk] = await Promise.all([attachPlugin(host, image, options), guest.connect()]);
  return { disk, guest };
}

function assertVerified(load: LoadOutcome): void {
  assertEquals([load.errors, load.miscompares, load.unanswered], [0, 0, 0]);
  assert(load.verifiedSectors > 0);
}

Deno.test("the example that compresses serves a guest, discards included", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  {
    const { disk, guest } = await attached(host, `plugin:${ROOT}examples/compressed_disk.ts?4M`);
    await using _disk = disk;
    assertEquals(guest.sectors, 4 * MIB / 512);
    const load = await guest.load(MIXED);
    assertVerified(load);
    assert(load.discards > 0);
  }
  assertEquals(host.holdings(), before);
});

Deno.test("the example in SQLite keeps what was written for the next attach", async () => {
  using host = new SimulatedHost();
  using folder = new Folder({});
  const image = `plugin:${ROOT}examples/sqlite_disk.ts?${folder.path}/disk.db`;
  const area = { firstSector: 8192, sectors: 1024 };
  const whole = { area, pattern: "sequential", blockBytes: [4096], requests: 128 } as const;
  const plugin = { permissions: [`read=${folder.path}`, `write=${folder.path}`] };
  {
    const { disk, guest } = await attached(host, image, { plugin });
    await using _disk = disk;
    assertVerified(await guest.load({ ...MIXED, area }));
    assertEquals((await guest.load({ ...whole, readShare: 0 })).errors, 0);
  }
  using database = new (await import("node:sqlite")).DatabaseSync(`${folder.path}/disk.db`, { readOnly: true });
  const { rows, first } = database.prepare("SELECT count(*) AS rows, min(number) AS first FROM blocks").get()!;
  assertEquals([rows, first], [128, 1024]);
  const { disk, guest } = await attached(host, image, { plugin, readOnly: true });
  await using _disk = disk;
  assertEquals((await guest.load({ ...whole, readShare: 1 })).reads, 128);
});

/** Serves bytes with range requests, as a web server does. */
function serveBytes(bytes: Uint8Array<ArrayBuffer>): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, (request) => {
    const headers = { "accept-ranges": "bytes", "etag": '"1"', "content-length": String(bytes.length) };
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
    if (range === null) return new Response(null, { headers });
    const part = bytes.slice(Number(range[1]), Number(range[2]) + 1);
    return new Response(part, { status: 206, headers: { ...headers, "content-length": String(part.length) } });
  });
}

Deno.test("the example over HTTP reads ranges, from the server alone that it was allowed", async () => {
  using host = new SimulatedHost();
  const bytes = new Uint8Array(MIB);
  for (let sector = 0; sector < MIB / 512; sector++) bytes.fill(sector % 251, 512 * sector, 512 * (sector + 1));
  await using server = serveBytes(bytes);
  const image = `plugin:${ROOT}examples/http_disk.ts?http://127.0.0.1:${server.addr.port}/disk.img`;
  const refused = await assertRejects(() => attachPlugin(host, image), XenblkError);
  assertStringIncludes(refused.line, "--plugin-allow net=127.0.0.1");
  const { disk, guest } = await attached(host, image, {
    plugin: { permissions: [`net=127.0.0.1:${server.addr.port}`] },
  });
  await using _disk = disk;
  assertEquals([disk.status().connected, guest.sectors], [true, 2048]);
  const load = await guest.load({ requests: 300, readShare: 0.5 });
  assertEquals([load.writes, load.errors, load.miscompares], [0, 0, 0], "it is read-only, as its guest knows");
  assert(load.verifiedSectors > 0);
});

Deno.test("a plugin grows: by the size that resize asks for, or because it has grown", async () => {
  using host = new SimulatedHost();
  using folder = new Folder({
    "growing.ts": `import { defineDisk } from "xenblk";
      export default defineDisk({
        open() {
          let data = new Uint8Array(${MIB});
          return {
            get sizeBytes() { return data.length; },
            read: (offset, into) => into.set(data.subarray(offset, offset + into.length)),
            write: (offset, from) => data.set(from, offset),
            resize(sizeBytes = data.length + ${MIB}) {
              const before = data;
              data = new Uint8Array(sizeBytes);
              data.set(before.subarray(0, sizeBytes));
            },
          };
        },
      });`,
  });
  const { disk, guest } = await attached(host, `plugin:${folder.path}/growing.ts`);
  await using _disk = disk;
  assertEquals(await disk.resize({ sizeBytes: 3 * MIB }), { before: 2048, now: 6144 });
  assertEquals(await disk.resize(), { before: 6144, now: 8192 });
  assertEquals(guest.sectors, 8192);
  const load = await guest.load({ requests: 200, area: { firstSector: 6144, sectors: 2048 } }, 8192);
  assertVerified(load);
  const error = await assertRejects(() => disk.resize({ sizeBytes: MIB }), XenblkError);
  assertStringIncludes(error.message, "Cannot shrink");
});

Deno.test("a disk that is only in memory fails with its process, once it was written to, and says why", async () => {
  using host = new SimulatedHost();
  using folder = new Folder({
    "dying.ts": `import { defineDisk } from "xenblk";
      export default defineDisk({
        survivesCrash: false,
        open: () => ({
          sizeBytes: ${MIB},
          read: (offset) => offset < ${MIB / 2} ? undefined : Deno.exit(7),
          write() {},
        }),
      });`,
  });
  const { disk, guest } = await attached(host, `plugin:${folder.path}/dying.ts`);
  await using _disk = disk;
  const writes = { readShare: 0, requests: 10, area: { firstSector: 0, sectors: 1024 } };
  assertEquals((await guest.load(writes)).errors, 0);
  const failing = await guest.load({ readShare: 1, requests: 10, area: { firstSector: 1024, sectors: 1024 } });
  assertEquals(failing.errors, 10);
  await waitUntil(() => disk.status().latched);
  assertEquals((await guest.load(writes)).errors, 10);
  assertMatch(disk.status().error ?? "", /it ended with status 7, with writes that it had not flushed/);
});

Deno.test("the disk that docs/plugins.md begins with does what it says", async () => {
  using host = new SimulatedHost();
  const [, text] = /```ts\n([^]*?)```/.exec(Deno.readTextFileSync(`${ROOT}docs/plugins.md`)) ?? [];
  using folder = new Folder({ "my_disk.ts": text! });
  const { disk, guest } = await attached(host, `plugin:${folder.path}/my_disk.ts?16`);
  await using _disk = disk;
  assertEquals(guest.sectors, 16 * MIB / 512);
  assertVerified(await guest.load({ requests: 200 }));
});

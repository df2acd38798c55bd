/**
 * The commands of docs/migration.md, run on two stand-in hosts with a guest each. What stands in for `xl migrate` does what
 * that does with the guest's disk, in its order: on host B it is attached as the configuration says, then on host A it goes.
 */

import { assert, assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { missingProgram, nativeTest } from "../native/harness.ts";
import { HostWithWeb, Place } from "./place.ts";
import { shellBlocks } from "./shell.ts";

const DOCUMENT = "docs/migration.md";
const PAGE = Deno.readTextFileSync(ROOT + DOCUMENT);

/** A port that nobody uses now. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}

/** A connection that is closed would end the server, so nobody connects to see. */
async function listens(port: number): Promise<void> {
  const entry = `:${port.toString(16).toUpperCase().padStart(4, "0")} 00000000:0000 0A `;
  for (const end = performance.now() + 20_000; !(await Deno.readTextFile("/proc/net/tcp")).includes(entry);) {
    assert(performance.now() < end, "the server does not listen");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A program of this name for the lines that run in a place. */
function install(place: Place, name: string, lines: readonly string[]): void {
  Deno.writeTextFileSync(`${place.folder}/bin/${name}`, ["#!/bin/sh", "set -e", ...lines, ""].join("\n"), {
    mode: 0o755,
  });
}

async function succeeds(place: Place, script: string): Promise<string> {
  const { status, stdout, stderr } = await place.run(script);
  assertEquals(status, 0, `${script}: ${stderr}${stdout}`);
  return stdout;
}

/** The process that serves a host's disks. */
async function serves(place: Place, port: number): Promise<void> {
  await place.serve(`xenblk serve --queues 1 --allow-image 'nbd://127.0.0.1:${port}/*'`, /serving all/);
  await place.reachable(1);
}

nativeTest(`${DOCUMENT}: its commands move a guest's disk from one host to the other`, async () => {
  const port = freePort();
  const here = (text: string): string =>
    text.replaceAll("nbd://hostb/", `nbd://127.0.0.1:${port}/`)
      .replace("-p 10809", `-b 127.0.0.1 -p ${port} --pid-file pid`)
      .replace("20G", "64M")
      .replace("done &", "done >nbd.log 2>&1 &");
  const blocks = shellBlocks(DOCUMENT, PAGE).map(({ text }) => here(text));
  const [server, onA, onB] = blocks;
  assertEquals(blocks.length, 3);
  await using a = await HostWithWeb.start();
  await using b = await HostWithWeb.start();
  await using from = Place.inDomain0(a.xen);
  await using to = Place.inDomain0(b.xen);
  await using undo = new AsyncDisposableStack();
  undo.defer(async () => void await to.run("touch web-moved; kill -9 $(cat pid) 2>/dev/null || true"));
  const config = /^```text\n(disk = .*nbd:\/\/.*)\n```$/m.exec(PAGE)![1]!;
  Deno.writeTextFileSync(`${from.folder}/web-moving.cfg`, here(config));
  const environment = Object.entries(b.xen.env(0)).map(([name, value]) => `${name}='${value}'`).join(" ");
  install(from, "xl", [
    'test "$1 $2 $4 $5" = "migrate -C web hostb"',
    `target=$(sed -n 's/.*target=\\([^"]*\\)".*/\\1/p' "$3")`,
    `env ${environment} xenblk attach web "$target" xvda --background`,
    "xenblk detach web xvda",
  ]);
  install(to, "xl", ['test "$*" = "config-update web web.cfg"']);
  await serves(from, port);
  await serves(to, port);
  await succeeds(from, "qemu-img create -q -f qcow2 web.qcow2 64M");
  await succeeds(from, 'xenblk attach web "qcow2:$PWD/web.qcow2" xvda --background');
  await succeeds(to, server!);
  await listens(port);
  await succeeds(from, onA!);
  assert((await succeeds(to, "xenblk list")).includes(`nbd://127.0.0.1:${port}/web`));
  await succeeds(to, onB!);
  assert((await succeeds(to, "xenblk list")).includes(`qcow2:${to.folder}/web.qcow2`));
  await succeeds(to, "xenblk detach web xvda && qemu-img check -q web.qcow2");
  assertEquals([...await from.end(), ...await to.end()].filter((status) => status !== 0 && status !== 130), []);
}, missingProgram("qemu-storage-daemon", "qemu-system-common"));

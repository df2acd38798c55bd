/**
 * The Worker of the metrics: serves them over HTTP and writes them into a file. It has a thread of its own, so that a
 * client that floods it, or a file system that hangs, costs the disks and their control nothing: the main thread only
 * makes a view of its figures, a few times a second at most.
 */

/// <reference lib="deno.worker" />

import { SYSTEM_CLOCK } from "../clock.ts";
import { errorText } from "../errors.ts";
import { CONTENT_TYPE, Exposition } from "./exposition.ts";
import { History } from "./history.ts";
import type { HttpAddress, MonitorCommand, MonitorEvent, MonitorOptions } from "./messages.ts";
import { OtlpExporter } from "./otlp.ts";
import { PAGE_FILES } from "./page/files.ts";
import { type Page, startServer } from "./server.ts";
import { Textfile } from "./textfile.ts";
import { Rendering, ViewCache } from "./view_cache.ts";

/** How often the file is written: as often as Prometheus reads it by default. */
const TEXTFILE_MS = 15_000;
/** How often the status page's past is recorded. */
const HISTORY_MS = 5_000;
const WITHOUT = "the disks are served without";
const REMEDY =
  "it is tried again; or choose a free port and an address of this machine (`ss -ltnp` lists ports in use)";
/** How often an address that cannot be used is tried again: it may be taken, or not be this machine's yet. */
const LISTEN_MS = 5_000;

const post = (event: MonitorEvent): void => self.postMessage(event);
const warn = (line: string): void => post({ kind: "warn", line });

const views = new ViewCache(() => post({ kind: "want" }));
const exposition = new Exposition();
const metrics = new Rendering((view) => exposition.text(view));
const status = new Rendering((view) => Promise.resolve(`${JSON.stringify(view)}\n`));
const history = new History();
let textfile: Textfile | undefined;
let writing: Promise<void> = Promise.resolve();
let pause: ReturnType<typeof setTimeout> | undefined;

self.onmessage = async ({ data }: MessageEvent<MonitorCommand>): Promise<void> => {
  if (data.kind === "view") views.accept(data.view);
  else if (data.kind === "start") start(data.options);
  else await end();
};

function start({ address, hostNames = [], textfile: path, otlp }: MonitorOptions): void {
  if (address !== undefined) {
    void keepListening(address, hostNames);
    views.whenFirst(() => void keepHistory());
  }
  if (path !== undefined) keepFile(new Textfile(path, warn));
  if (otlp !== undefined) keepSending(new OtlpExporter(otlp, warn), otlp.intervalMs);
}

/** Starts the server, as soon as its address can be used. */
async function keepListening(address: HttpAddress, names: readonly string[]): Promise<void> {
  const { hostname, port } = address;
  const place = `${hostname}, port ${port}`;
  const host = `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
  // Asked first: node's server would not reject, but end this Worker.
  const { state } = await Deno.permissions.query({ name: "net", host });
  if (state !== "granted") {
    return warn(`cannot serve metrics on ${place}: run deno with --allow-net=${host} as well; ${WITHOUT}`);
  }
  const hostNames = new Set([hostname, ...names].map((name) => name.toLowerCase()));
  for (let isFirst = true;; isFirst = false) {
    try {
      return post({ kind: "listens", port: await startServer(address, { pages: pages(), hostNames, warn }) });
    } catch (error) {
      if (isFirst) warn(`cannot serve metrics on ${place}: ${errorText(error)}; ${WITHOUT}; ${REMEDY}`);
    }
    await SYSTEM_CLOCK.sleep(LISTEN_MS);
  }
}

async function keepHistory(): Promise<never> {
  for (;; await SYSTEM_CLOCK.sleep(HISTORY_MS)) await views.fresh().then((view) => history.add(view)).catch(() => {});
}

function pages(): ReadonlyMap<string, Page> {
  const json = "application/json; charset=utf-8";
  return new Map<string, Page>([
    ...PAGE_FILES,
    ["/metrics", { type: CONTENT_TYPE, body: async () => await metrics.of(await views.fresh()) }],
    ["/status.json", { type: json, body: async () => await status.of(await views.fresh()) }],
    ["/history.json", { type: json, body: () => new TextEncoder().encode(`${JSON.stringify(history)}\n`) }],
  ]);
}

function keepFile(file: Textfile): void {
  textfile = file;
  const write = async (): Promise<void> => await file.write(await metrics.of(await views.fresh()));
  const again = (): void => {
    // The next write waits for this one, however long a dead file system holds it.
    writing = write().catch(() => {}).finally(() => pause = setTimeout(again, TEXTFILE_MS));
  };
  views.whenFirst(again);
}

function keepSending(exporter: OtlpExporter, intervalMs: number): void {
  const send = async (): Promise<void> => {
    await views.fresh().then((view) => exporter.send(view)).catch(() => {});
    setTimeout(send, intervalMs);
  };
  views.whenFirst(() => void send());
}

async function end(): Promise<void> {
  await writing;
  clearTimeout(pause);
  await textfile?.remove();
  post({ kind: "ended" });
}

/**
 * The process of a disk in TypeScript: maps the shared memory, gives up what only that needs, imports the module, opens
 * its disk, and carries out requests until it is told to end. It is started by spawn.ts, and exports nothing: the plugin
 * could import it.
 */

import { errorText } from "../../lib/errors.ts";
import type { DiskMethods } from "../../lib/storage/plugin/disk_methods.ts";
import { deniedAccess } from "../../lib/storage/plugin/denied.ts";
import { hostLog } from "./host_log.ts";
import { HostLoop } from "./host_loop.ts";
import { MOST_CHARACTERS, openModule, sendable } from "./host_module.ts";
import { type HostSystem, openSystem, type SystemArguments } from "./host_system.ts";
import { Mailbox } from "./mailbox.ts";

/** What the process was started with. */
interface HostArguments extends SystemArguments {
  readonly epoch: number;
  readonly module: string;
  readonly target: string;
  readonly readOnly: boolean;
}

/** A terminal sends the first to all processes, a service manager the second: the one that serves the disk ends this one. */
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) Deno.addSignalListener(signal, () => {});

// Deno itself would end the event loop first, and can crash then, because a thread of its pool is still in the sleep.
addEventListener("unhandledrejection", (event) => endBy(event, event.reason));
addEventListener("error", (event) => endBy(event, event.error));

const parts: HostArguments = JSON.parse(Deno.args[0]!);
await serve(openSystem(parts));

async function serve(system: HostSystem): Promise<void> {
  const mailbox = new Mailbox(system.memory);
  const answer = (value: unknown): void => {
    mailbox.reply(value);
    system.ring(parts.newsFd);
  };
  const ending = new AbortController();
  const opened = await openModule(parts.module, parts.target, {
    readOnly: parts.readOnly,
    signal: ending.signal,
    log: hostLog,
  });
  answer(opened.answer);
  const { disk } = opened;
  if (disk === undefined) return;
  const failed = (what: string, error: unknown): void => hostLog.warning(`${what} failed: ${withPlace(error)}`);
  const loop = new HostLoop({ system, disk, epoch: parts.epoch, callFds: parts.callFds, failed });
  await loop.run(async () => {
    const { command } = mailbox;
    if (command.do === "close") {
      ending.abort();
      await loop.idle();
      answer(await attempt(() => close(disk)));
      return true;
    }
    const sizeBytes = command.do === "size" ? command.sizeBytes : undefined;
    answer(
      await attempt(async () => {
        const size = await resize(disk, sizeBytes);
        if (typeof size === "number") loop.sizeBytes = size;
        return { sizeBytes: size };
      }),
    );
    return false;
  });
  // What the plugin has open does not keep the process.
  Deno.exit(0);
}

async function resize(disk: DiskMethods, sizeBytes: number | undefined): Promise<number | string> {
  if (sizeBytes !== undefined && disk.resize === undefined) throw new Error("it has no method resize");
  await disk.resize?.(sizeBytes);
  return sendable(disk.sizeBytes);
}

async function close(disk: DiskMethods): Promise<void> {
  if (!parts.readOnly) await disk.flush?.();
  await disk.close?.();
}

async function attempt(body: () => unknown): Promise<unknown> {
  try {
    return { ok: true, ...(await body() as object | undefined) };
  } catch (error) {
    return { ok: false, message: withPlace(error).slice(0, MOST_CHARACTERS) };
  }
}

/** Nobody has caught the error: the process ends. */
function endBy(event: Event, error: unknown): never {
  event.preventDefault();
  Deno.stderr.writeSync(new TextEncoder().encode(`uncaught: ${withPlace(error).replaceAll("\n", " ")}\n`));
  Deno.exit(1);
}

/** The error, and the line of the module where it was thrown. */
function withPlace(error: unknown): string {
  const denied = deniedAccess(errorText(error));
  const text = denied === undefined ? errorText(error) : `${denied.message}; ${denied.remedy}`;
  const place = error instanceof Error ? /^ +at .*?((?:file|https?):\S+:\d+:\d+)\)?$/m.exec(error.stack ?? "") : null;
  return place === null ? text : `${text} (${place[1]})`;
}

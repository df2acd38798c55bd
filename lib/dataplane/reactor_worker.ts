/**
 * The entry of a reactor's Worker: opens the platform it is told, runs one Reactor, and gives the Worker's event loop a
 * turn only when the control word says that messages wait. A composition root: it is the platform that knows whether
 * Xen is real. No ring, grant or disk is known here.
 */

/// <reference lib="deno.worker" />

import { errorText, XenblkError } from "../errors.ts";
import type { Platform } from "../hypervisor.ts";
import type { ReactorIo } from "./reactor_io.ts";
import { CONTROL_POSTED, type ReactorCommand, type ReactorEvent, type StartMessage } from "./messages.ts";
import { Reactor } from "./reactor.ts";

const post = (event: ReactorEvent): void => self.postMessage(event);

/** Looking for requests longer than it takes to be woken does not pay. */
const MOST_POLL_MS = 0.02;

self.onmessage = async ({ data }: MessageEvent<StartMessage>): Promise<void> => {
  let platform: Platform;
  let io: ReactorIo;
  try {
    const { openPlatform, openReactorIo } = await import("../../platform.ts");
    platform = await openPlatform(data.platform);
    io = await openReactorIo(platform, data.token, data.uring);
  } catch (error) {
    const remedy = error instanceof XenblkError ? error.remedy : undefined;
    post({ type: "unavailable", reason: error instanceof Error ? error.message : String(error), remedy });
    return;
  }
  await run(platform, io, data);
  post({ type: "exited" });
};

async function run(platform: Platform, io: ReactorIo, start: StartMessage): Promise<void> {
  const control = new Int32Array(start.control);
  using parker = io.parker;
  const host = {
    closed: (id: number): void => post({ type: "closed", id }),
    stopped: (id: number, reason: string): void => post({ type: "stopped", id, reason }),
    warn: (message: string): void => post({ type: "warning", message }),
    debug: (message: string): void => post({ type: "debug", message }),
  };
  using reactor = new Reactor(platform, parker, host, { ...io.options, mostPollMs: MOST_POLL_MS });
  let handled = 0;
  let exiting = false;
  self.onmessage = ({ data }: MessageEvent<ReactorCommand>): void => {
    handled = (handled + 1) | 0;
    if (data.type === "exit") exiting = true;
    else obey(reactor, data);
  };
  post({ type: "ready", uringRefusal: io.uringRefusal });
  while (!exiting) {
    const busy = reactor.turn();
    if (Atomics.load(control, CONTROL_POSTED) !== handled) await eventLoopTurn();
    else if (!busy) reactor.sleep(-1);
  }
}

function obey(reactor: Reactor, command: Exclude<ReactorCommand, { type: "exit" }>): void {
  if (command.type === "close") return reactor.close(command.id);
  if (command.type === "grow") {
    reactor.grow(command.id, command.sectors);
    return post({ type: "grown", id: command.id });
  }
  try {
    reactor.open(command.id, command.request);
    post({ type: "opened", id: command.id });
  } catch (error) {
    post({ type: "refused", id: command.id, reason: errorText(error) });
  }
}

/** Lets the Worker's pending messages be delivered. */
function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

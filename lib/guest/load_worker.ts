/**
 * The entry of a load's Worker: opens the platform that its first message names, binds the frontend's ports, and runs
 * loads to their end, one after another. The commands are in load_messages.ts.
 */

/// <reference lib="deno.worker" />

import { errorText } from "../errors.ts";
import type { DomId, EventChannels, EvtchnPort, Parker, Platform } from "../hypervisor.ts";
import { openPlatform } from "../modules.ts";
import { DiskModel } from "./disk_model.ts";
import { LoadDriver, runLoad } from "./load.ts";
import type { LoadCommand, LoadReply } from "./load_messages.ts";
import { LoadProgress } from "./load_types.ts";
import { openReplay } from "./replay_run.ts";
import { ReplayLatencies, type ReplayOutcome } from "./replay_types.ts";

let platform: Platform | undefined;
let parker: Parker | undefined;
let events: EventChannels | undefined;
/** Number of ports bound by {@linkcode events}. */
let ports = 0;

self.onmessage = async ({ data }: MessageEvent<LoadCommand>): Promise<void> => {
  let reply: LoadReply;
  try {
    reply = await obey(data);
  } catch (error) {
    reply = { type: "failed", message: errorText(error) };
  }
  self.postMessage(reply);
};

async function obey(command: LoadCommand): Promise<LoadReply> {
  switch (command.type) {
    case "open":
      platform = await openPlatform(command.platform);
      parker = platform.openParker(command.token);
      return { type: "done" };
    case "bind":
      return { type: "bound", port: bind(command.backend) };
    case "unbind":
      events?.unbind(command.port);
      if (--ports === 0) closeEvents();
      return { type: "done" };
    case "run":
      return { type: "outcome", outcome: run(command) };
    case "replay":
      return { type: "replayed", outcome: replay(command) };
    case "close":
      closeEvents();
      parker?.[Symbol.dispose]();
      return { type: "done" };
  }
}

function bind(backend: DomId): EvtchnPort {
  if (events === undefined) {
    events = platform!.openEventChannels(backend);
    parker!.watch(events);
  }
  const port = events.bindUnbound(backend);
  ports++;
  return port;
}

function run({ target, spec, model, progress }: Extract<LoadCommand, { type: "run" }>): ReturnType<
  LoadDriver["outcome"]
> {
  const driver = new LoadDriver({
    target,
    spec,
    platform: platform!,
    events: events!,
    ...(model === undefined ? {} : { model: new DiskModel(model) }),
    progress: new LoadProgress(progress),
  });
  runLoad(driver, parker!);
  return driver.outcome();
}

function replay({ target, spec, progress, latencies }: Extract<LoadCommand, { type: "replay" }>): ReplayOutcome {
  using opened = openReplay({
    target,
    platform: platform!,
    events: events!,
    progress: new LoadProgress(progress),
    latencies: new ReplayLatencies(latencies),
  }, spec);
  runLoad(opened.driver, parker!);
  return opened.outcome();
}

function closeEvents(): void {
  if (events === undefined) return;
  parker!.unwatch(events);
  events[Symbol.dispose]();
  events = undefined;
  ports = 0;
}

/**
 * The hypervisor in a thread of a simulated process, as its Worker opens it by the process's descriptor. Once the process
 * was killed, the thread's program has ended with an exception that nobody hears of. What is left is an event loop, which
 * answers whoever still waits for the thread, so that its Worker can be ended.
 */

/// <reference lib="deno.worker" />

import type { ReactorCommand, ReactorEvent } from "../dataplane/messages.ts";
import type { Platform } from "../hypervisor.ts";
import type { IoAnswer, IoCommand } from "../storage/pool/messages.ts";
import { Life, ProcessKilledError } from "./life.ts";
import { type ProcessDescriptor, ProcessPlatform } from "./process_platform.ts";

/** See PlatformModule. */
export function openPlatform(descriptor: ProcessDescriptor): Platform {
  const life = new Life(descriptor.life);
  self.addEventListener("unhandledrejection", (event) => {
    if (!life.dead) return;
    event.preventDefault();
    self.onmessage = ({ data }: MessageEvent<ReactorCommand | IoCommand>): void => {
      const answer = answerOfDead(data);
      if (answer !== undefined) self.postMessage(answer);
    };
  });
  return new ProcessPlatform(descriptor);
}

function answerOfDead(command: ReactorCommand | IoCommand): ReactorEvent | IoAnswer | undefined {
  if ("request" in command && typeof command.request === "number") return { request: command.request };
  switch (command.type) {
    case "close":
      return "id" in command ? { type: "closed", id: command.id } : undefined;
    case "grow":
      return { type: "grown", id: command.id };
    case "exit":
      return { type: "exited" };
    case "open":
      return "id" in command
        ? { type: "refused", id: command.id, reason: new ProcessKilledError().message }
        : undefined;
    default:
      return undefined;
  }
}

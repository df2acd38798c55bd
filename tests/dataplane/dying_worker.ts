/**
 * A reactor's Worker that dies of a defect right after it opened its first queue.
 */

/// <reference lib="deno.worker" />

import type { ReactorCommand, ReactorEvent, StartMessage } from "../../lib/dataplane/messages.ts";

const post = (event: ReactorEvent): void => self.postMessage(event);

self.onmessage = ({ data }: MessageEvent<StartMessage | ReactorCommand>): void => {
  if (data.type === "start") return post({ type: "ready", uringRefusal: undefined });
  if (data.type === "open") post({ type: "opened", id: data.id });
  setTimeout(() => {
    throw new Error("a defect");
  }, 0);
};

/**
 * A reactor's Worker that answers nothing once it is ready, until it shall exit.
 */

/// <reference lib="deno.worker" />

import type { ReactorCommand, ReactorEvent, StartMessage } from "../../lib/dataplane/messages.ts";

const post = (event: ReactorEvent): void => self.postMessage(event);

self.onmessage = ({ data }: MessageEvent<StartMessage | ReactorCommand>): void => {
  if (data.type === "start") post({ type: "ready", uringRefusal: undefined, thread: 1 });
  if (data.type === "exit") post({ type: "exited" });
};

/**
 * The control socket of this process, put together: the methods, the events, and the socket.
 */

import { LOG_LEVELS, type LogLevel } from "../log.ts";
import type { ConnectionParts } from "./connection.ts";
import { deviceMethods } from "./device_methods.ts";
import { snapshotMethods } from "./snapshot_methods.ts";
import { DeviceEvents, type TakeEvent } from "./events.ts";
import { exportMethods } from "./export_methods.ts";
import { jobMethods } from "./job_methods.ts";
import { basicMethods, type ControlledProcess } from "./methods.ts";
import { ControlServer } from "./server.ts";
import { visitMethods } from "./visiting.ts";

/** Where the socket is, and who hears of trouble. */
export interface ControlOptions extends ControlledProcess {
  /** Of the sockets; see directory.ts. */
  readonly directory: string;
  readonly warn: (line: string) => void;
}

/** Listens. Rejects with Deno's errors; then nothing is left. Disposing the result ends it. */
export async function startControl(options: ControlOptions): Promise<AsyncDisposable & { readonly path: string }> {
  const { directory, warn } = options;
  await using undo = new AsyncDisposableStack();
  const events = undo.use(new DeviceEvents(options.service.devices));
  const subscribed = followers(events, options);
  const server = undo.use(
    await ControlServer.start({
      directory,
      pid: Deno.pid,
      methods: {
        ...basicMethods(options),
        ...deviceMethods(options),
        ...exportMethods(options, options),
        ...jobMethods(options),
        ...snapshotMethods(options),
        ...visitMethods(options),
      },
      subscribed,
      warn,
    }),
  );
  const running = undo.move();
  return { path: server.path, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

/** What subscribes to events, and to lines of the log from a level on. */
function followers(events: DeviceEvents, { logging, jobs }: ControlledProcess): ConnectionParts["subscribed"] {
  return (log: LogLevel | undefined, send: TakeEvent): Disposable => {
    const subscription = new DisposableStack();
    subscription.use(events.follow(send));
    if (jobs !== undefined) {
      subscription.use(jobs.onChange((job) => {
        send({ event: "job", time: new Date().toISOString(), device: job.device, job });
      }));
    }
    if (log !== undefined) {
      const least = LOG_LEVELS.indexOf(log);
      subscription.use(logging.follow((level, line) => {
        if (LOG_LEVELS.indexOf(level) < least) return;
        send({ event: "log", time: new Date().toISOString(), level, line });
      }));
    }
    return subscription;
  };
}

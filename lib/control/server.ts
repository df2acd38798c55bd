/**
 * The control socket of a serving process: listens, and gives each connection its methods and events.
 */

import { SYSTEM_CLOCK } from "../clock.ts";
import { endsWithin } from "../within.ts";
import { errorText } from "../errors.ts";
import { type ConnectionParts, ControlConnection, type Handler } from "./connection.ts";
import { socketPathBelow } from "../socket_path.ts";
import { leaveDirectory, prepareDirectory, socketPath } from "./directory.ts";

/** Connections at the same time; the next one is closed at once. */
const MOST_CONNECTIONS = 64;
/** How long the end of the process waits for what clients have asked for. */
const CLOSING_MS = 3_000;

/** The pause after a connection could not be accepted, such as with too many open files. */
const RETRY_MS = 1_000;

/** How often the socket is made anew after its directory has disappeared. */
const MOST_ATTEMPTS = 5;

/** How often the socket is looked for: who empties /run/xenblk removes it. */
const LOOK_MS = 10_000;

/** What a server is made of. */
export interface ControlServerOptions {
  /** Of the sockets; see directory.ts. */
  readonly directory: string;
  /** This process; it names the socket. */
  readonly pid: number;
  /** By name. */
  readonly methods: Readonly<Record<string, Handler>>;
  readonly subscribed: ConnectionParts["subscribed"];
  /** Gets what goes wrong with sockets of others, and with accepting. */
  readonly warn: (line: string) => void;
  /** How often the socket is looked for, and made anew if it is gone. Default: 10 s. */
  readonly lookMs?: number;
}

/** A listening socket. Disposing it closes all connections, once what they have asked for is answered, and removes it. */
export class ControlServer implements AsyncDisposable {
  /** The socket. */
  readonly path: string;
  readonly #options: ControlServerOptions;
  #listener: Deno.Listener<Deno.Conn>;
  readonly #connections = new Map<ControlConnection, Promise<void>>();
  #accepting: Promise<void>;
  readonly #keeping: Promise<void>;
  readonly #over = new AbortController();

  private constructor(options: ControlServerOptions, path: string, listener: Deno.Listener<Deno.Conn>) {
    this.path = path;
    this.#options = options;
    this.#listener = listener;
    this.#accepting = this.#accept(listener);
    this.#keeping = this.#keep();
  }

  /** Makes the directory and the socket. Rejects with Deno's errors, and {@linkcode XenblkError} for too long a path. */
  static async start(options: ControlServerOptions): Promise<ControlServer> {
    const path = socketPathBelow(socketPath(options.directory, options.pid));
    return new ControlServer(options, path, await listenIn(options, path));
  }

  /** How many clients are connected. */
  get connections(): number {
    return this.#connections.size;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#over.signal.aborted) return;
    this.#over.abort();
    await this.#keeping;
    await this.#closeListener();
    const closing = [...this.#connections].map(async ([connection, over]) => {
      await connection.close("the process ends");
      await over;
    });
    await endsWithin(Promise.all(closing), CLOSING_MS);
    await leaveDirectory(this.#options.directory);
  }

  /** It removes the socket, too. */
  async #closeListener(): Promise<void> {
    try {
      this.#listener.close();
    } catch { /* it is closed, and could not be made anew */ }
    await this.#accepting;
  }

  /** Makes the socket anew when it is gone. Connections stay. */
  async #keep(): Promise<void> {
    const { signal } = this.#over;
    let isFailing = false;
    for (;;) {
      await SYSTEM_CLOCK.sleep(this.#options.lookMs ?? LOOK_MS, signal);
      if (signal.aborted) return;
      if (await isThere(this.path)) continue;
      try {
        await this.#closeListener();
        this.#listener = await listenIn(this.#options, this.path);
        this.#accepting = this.#accept(this.#listener);
        this.#options.warn(`${this.path} was removed, and is there again`);
        isFailing = false;
      } catch (error) {
        if (!isFailing) this.#options.warn(`${this.path} was removed: ${errorText(error)}; trying again`);
        isFailing = true;
      }
    }
  }

  async #accept(listener: Deno.Listener<Deno.Conn>): Promise<void> {
    while (!this.#over.signal.aborted) {
      try {
        for await (const stream of listener) this.#take(stream);
        return; // closed
      } catch (error) {
        if (this.#over.signal.aborted) return;
        this.#options.warn(`cannot take a connection to the control socket: ${errorText(error)}`);
        await SYSTEM_CLOCK.sleep(RETRY_MS, this.#over.signal);
      }
    }
  }

  #take(stream: Deno.Conn): void {
    const { methods, subscribed } = this.#options;
    const handler = (name: string): Handler | undefined => Object.hasOwn(methods, name) ? methods[name] : undefined;
    const connection = new ControlConnection({ stream, handler, subscribed });
    if (this.#connections.size >= MOST_CONNECTIONS) {
      void connection.close(`the process has ${MOST_CONNECTIONS} connections already`);
      return;
    }
    this.#connections.set(connection, connection.run().finally(() => this.#connections.delete(connection)));
  }
}

/** Makes the directory and listens. Rejects with Deno's errors. */
async function listenIn(
  { directory, warn }: ControlServerOptions,
  path: string,
): Promise<Deno.Listener<Deno.Conn>> {
  for (let attempt = 1;; attempt++) {
    await prepareDirectory(directory, warn);
    try {
      return await listen(path);
    } catch (error) {
      // The last process that left has removed the directory meanwhile.
      if (!(error instanceof Deno.errors.NotFound) || attempt === MOST_ATTEMPTS) throw error;
    }
  }
}

/** Also if it cannot be looked at. */
async function isThere(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    return !(error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory);
  }
}

async function listen(path: string): Promise<Deno.Listener<Deno.Conn>> {
  const listener = Deno.listen({ transport: "unix", path });
  try {
    await Deno.chmod(path, 0o600);
    return listener;
  } catch (error) {
    listener.close();
    throw error;
  }
}

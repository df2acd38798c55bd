/**
 * The control socket of a serving process: listens, and gives each connection its methods and events.
 */

import { SYSTEM_CLOCK } from "../clock.ts";
import { endsWithin } from "../within.ts";
import { errorText } from "../errors.ts";
import { type ConnectionParts, ControlConnection, type Handler } from "./connection.ts";
import { leaveDirectory, prepareDirectory, socketPath } from "./directory.ts";

/** Connections at the same time; the next one is closed at once. */
const MOST_CONNECTIONS = 64;
/** How long the end of the process waits for what clients have asked for. */
const CLOSING_MS = 3_000;

/** The pause after a connection could not be accepted, such as with too many open files. */
const RETRY_MS = 1_000;

/** How often the socket is made anew after its directory has disappeared. */
const MOST_ATTEMPTS = 5;

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
}

/** A listening socket. Disposing it closes all connections, once what they have asked for is answered, and removes it. */
export class ControlServer implements AsyncDisposable {
  /** The socket. */
  readonly path: string;
  readonly #options: ControlServerOptions;
  readonly #listener: Deno.Listener<Deno.Conn>;
  readonly #connections = new Map<ControlConnection, Promise<void>>();
  readonly #accepting: Promise<void>;
  readonly #over = new AbortController();

  private constructor(options: ControlServerOptions, path: string, listener: Deno.Listener<Deno.Conn>) {
    this.path = path;
    this.#options = options;
    this.#listener = listener;
    this.#accepting = this.#accept();
  }

  /** Makes the directory and the socket. Rejects with Deno's errors. */
  static async start(options: ControlServerOptions): Promise<ControlServer> {
    const { directory, pid, warn } = options;
    const path = socketPath(directory, pid);
    for (let attempt = 1;; attempt++) {
      await prepareDirectory(directory, warn);
      try {
        return new ControlServer(options, path, await listen(path));
      } catch (error) {
        // The last process that left has removed the directory meanwhile.
        if (!(error instanceof Deno.errors.NotFound) || attempt === MOST_ATTEMPTS) throw error;
      }
    }
  }

  /** How many clients are connected. */
  get connections(): number {
    return this.#connections.size;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#over.signal.aborted) return;
    this.#over.abort();
    this.#listener.close(); // it removes the socket, too
    await this.#accepting;
    const closing = [...this.#connections].map(async ([connection, over]) => {
      await connection.close("the process ends");
      await over;
    });
    await endsWithin(Promise.all(closing), CLOSING_MS);
    await leaveDirectory(this.#options.directory);
  }

  async #accept(): Promise<void> {
    while (!this.#over.signal.aborted) {
      try {
        for await (const stream of this.#listener) this.#take(stream);
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

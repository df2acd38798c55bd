/**
 * A control socket of this process over a simulated host, for tests: a guest, a service of kind `vbd3`, and the socket's
 * clients.
 */

import { join } from "node:path";
import { ControlClient } from "../../lib/control/client.ts";
import { startControl } from "../../lib/control/process.ts";
import type { ControlEvent } from "../../lib/control/protocol.ts";
import { SILENT, startLogging } from "../../lib/log.ts";
import { type Service, startService } from "../../lib/service.ts";
import { type TestHost, testHost } from "../../testing.ts";

/** A process that serves. Disposing it leaves its disks Connected. */
export class Rig implements AsyncDisposable {
  readonly host: TestHost;
  readonly service: Service;
  /** The directory of the sockets. */
  readonly directory: string;
  /** The socket. */
  readonly path: string;
  /** What the server could not do. */
  readonly warnings: string[];
  readonly #undo: AsyncDisposableStack;

  private constructor(
    parts: { host: TestHost; service: Service; directory: string; path: string; warnings: string[] },
    undo: AsyncDisposableStack,
  ) {
    this.host = parts.host;
    this.service = parts.service;
    this.directory = parts.directory;
    this.path = parts.path;
    this.warnings = parts.warnings;
    this.#undo = undo;
  }

  /** `logged` receives what the process logs of itself. */
  static async start(logged: (line: string) => void = () => {}): Promise<Rig> {
    await using undo = new AsyncDisposableStack();
    const folder = await Deno.makeTempDir({ prefix: "xenblk-control-" });
    undo.defer(() => Deno.remove(folder, { recursive: true }));
    const logging = undo.use(await startLogging("info", logged));
    const host = undo.use(await testHost());
    await host.startGuest({ name: "web" });
    const { platform } = host;
    using store = platform.openXenstore();
    // Directories that outlive disks.
    for (const domid of [1, 2]) store.makeDirectory(`/libxl/${domid}/device`);
    const service = await startService({ platform, kind: "vbd3", workers: 1, logger: SILENT });
    undo.defer(async () => void await service.close({ leave: "connected", timeoutMs: 0 }));
    const directory = join(folder, "control");
    const warnings: string[] = [];
    const control = undo.use(
      await startControl({
        directory,
        service,
        platform,
        verb: "serve",
        kind: "vbd3",
        attaches: true,
        version: "1.2.3",
        logging,
        warn: (line) => warnings.push(line),
      }),
    );
    return new Rig({ host, service, directory, path: control.path, warnings }, undo.move());
  }

  /** A client, connected. */
  async client(): Promise<ControlClient> {
    return (await ControlClient.connect(this.path))!;
  }

  /** A plain connection. */
  async connect(): Promise<RawClient> {
    return new RawClient(await Deno.connect({ transport: "unix", path: this.path }));
  }

  /** An image of 1 MiB. */
  image(name = "disk.img"): string {
    const path = join(this.directory, "..", name);
    using file = Deno.openSync(path, { write: true, create: true });
    file.truncateSync(2 ** 20);
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}

/** A connection that sends what it is told to. */
export class RawClient implements Disposable {
  readonly #stream: Deno.Conn;

  constructor(stream: Deno.Conn) {
    this.#stream = stream;
  }

  /** Sends bytes or text as they are. */
  async send(what: string | Uint8Array): Promise<void> {
    const bytes = typeof what === "string" ? new TextEncoder().encode(what) : what;
    for (let done = 0; done < bytes.length;) done += await this.#stream.write(bytes.subarray(done));
  }

  /** No more is sent. */
  async end(): Promise<void> {
    await (this.#stream as Deno.UnixConn).closeWrite();
  }

  /** All that arrives until the server closes, as JSON. */
  async rest(): Promise<Record<string, unknown>[]> {
    const text = await new Response(this.#stream.readable).text();
    return text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
  }

  [Symbol.dispose](): void {
    try {
      this.#stream.close();
    } catch { /* the end of its stream closed it */ }
  }
}

/** Events, and waits for them. */
export class Events {
  readonly all: ControlEvent[] = [];
  #changed = Promise.withResolvers<void>();

  /** Takes one. */
  readonly take = (event: ControlEvent): void => {
    this.all.push(event);
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  };

  /** Resolves with the first event of that name. */
  async first(name: ControlEvent["event"]): Promise<ControlEvent> {
    for (;;) {
      const found = this.all.find(({ event }) => event === name);
      if (found !== undefined) return found;
      await this.#changed.promise;
    }
  }
}

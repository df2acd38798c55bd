/**
 * The HTTP server of the metrics and the status page. It answers GET and HEAD only, changes nothing, and bounds what a
 * client can take: connections, the size of a request, and the time of each.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { HttpAddress } from "./messages.ts";

/** Connections at a time. Prometheus needs one, and a browser six. */
const MOST_CONNECTIONS = 64;
const MOST_HEADER_BYTES = 8 * 1024;
/** How long a client may take to send a request. */
const REQUEST_MS = 3_000;
/** How long a connection may be silent, in a request or between two. */
const IDLE_MS = 15_000;
/** How often slow requests are looked for. */
const CHECK_MS = 1_000;

/** Answers a second, and those that may come at once: a page with its files is four. More wait for their turn. */
const ANSWERS_PER_S = 50;
const BURST = 20;

/** For browsers: nothing from elsewhere, no script in the page itself, no frame around it. */
const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "no-store",
};

/** A page's body. */
export interface Page {
  readonly type: string;
  /** Rejects if there is nothing to show yet. */
  readonly body: () => Promise<Uint8Array> | Uint8Array;
}

/** What is served, and to whom. */
export interface ServerOptions {
  /** By path. */
  readonly pages: ReadonlyMap<string, Page>;
  /** Names that the header Host may have, in lower case; addresses and `localhost` are always allowed. */
  readonly hostNames: ReadonlySet<string>;
  readonly warn: (line: string) => void;
}

/** Starts a server. Resolves once it listens, to its port; rejects if it cannot. */
export async function startServer(address: HttpAddress, options: ServerOptions): Promise<number> {
  const pace = new Pace();
  const server: Server = createServer({
    maxHeaderSize: MOST_HEADER_BYTES,
    headersTimeout: REQUEST_MS,
    requestTimeout: REQUEST_MS,
    keepAliveTimeout: IDLE_MS,
    connectionsCheckingInterval: CHECK_MS,
  }, (request, response) => pace.add(request, response, () => void answer(request, response, options)));
  server.maxConnections = MOST_CONNECTIONS;
  server.timeout = IDLE_MS;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen({ host: address.hostname, port: address.port }, resolve);
  await promise;
  server.off("error", reject);
  server.on("error", ({ message }) => options.warn(`the server of the metrics: ${message}`));
  const bound = server.address();
  return typeof bound === "object" && bound !== null ? bound.port : address.port;
}

/** A request that waits for its turn. */
interface Waiting {
  readonly socket: Socket;
  readonly act: () => void;
}

/**
 * Spreads answers over time, so that a client that asks without end does not take the CPUs that the disks need. The wait
 * is bounded by the connections: each has one request at a time, and one that is closed meanwhile costs no time.
 */
class Pace {
  readonly #waiting: Waiting[] = [];
  /** Connections with a request that was not answered yet. */
  readonly #busy = new WeakSet<Socket>();
  #nextMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Calls `act` when it is the request's turn, unless its connection is closed before. */
  add({ socket }: IncomingMessage, response: ServerResponse, act: () => void): void {
    // Requests ahead of their answers, which no browser sends and Prometheus does not either, would wait without bound.
    if (this.#busy.has(socket)) return void socket.destroy();
    this.#busy.add(socket);
    response.once("finish", () => this.#busy.delete(socket));
    this.#waiting.push({ socket, act });
    if (this.#timer === undefined) this.#serve();
  }

  #serve(): void {
    this.#timer = undefined;
    const now = performance.now();
    this.#nextMs = Math.max(this.#nextMs, now - BURST * 1000 / ANSWERS_PER_S);
    while (this.#nextMs <= now) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      if (next.socket.destroyed) continue;
      this.#nextMs += 1000 / ANSWERS_PER_S;
      next.act();
    }
    if (this.#waiting.length > 0) this.#timer = setTimeout(() => this.#serve(), this.#nextMs - now);
  }
}

async function answer(request: IncomingMessage, response: ServerResponse, options: ServerOptions): Promise<void> {
  const { status, type, body } = await choose(request, options);
  response.writeHead(status, {
    ...SECURITY_HEADERS,
    ...(status === 405 ? { allow: "GET, HEAD" } : {}),
    // The body of a refused request is not read.
    ...(status === 405 ? { connection: "close" } : {}),
    "content-type": type,
    "content-length": body.length,
  });
  response.end(request.method === "HEAD" ? undefined : body);
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: Uint8Array;
}

async function choose({ method, url = "/", headers }: IncomingMessage, options: ServerOptions): Promise<Answer> {
  if (method !== "GET" && method !== "HEAD") return plain(405, "Only GET and HEAD are answered here");
  if (!isOurs(headers.host, options.hostNames)) {
    return plain(421, "This name is not one of this server: use its address, or start it with --metrics-host NAME");
  }
  const page = options.pages.get(url.split("?", 1)[0]!);
  if (page === undefined) return plain(404, "There is nothing here; see /");
  try {
    return { status: 200, type: page.type, body: await page.body() };
  } catch (error) {
    return plain(503, error instanceof Error ? error.message : String(error));
  }
}

function plain(status: number, line: string): Answer {
  return { status, type: "text/plain; charset=utf-8", body: new TextEncoder().encode(`${line}\n`) };
}

/**
 * Whether a request means this server. A page of somebody else can make a browser send requests to any address under a
 * name of its own, and read the answers (DNS rebinding); that name is then in Host.
 */
function isOurs(host: string | undefined, names: ReadonlySet<string>): boolean {
  if (host === undefined) return false;
  const name = host.replace(/:\d+$/, "").toLowerCase();
  return name === "localhost" || /^\d{1,3}(\.\d{1,3}){3}$/.test(name) || /^\[[0-9a-f:.]+\]$/.test(name) ||
    names.has(name);
}

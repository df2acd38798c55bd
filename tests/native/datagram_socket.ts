/**
 * A Unix socket that receives datagrams, as a service manager's does. Deno has none without a flag.
 */

const AF_UNIX = 1;
/** SOCK_DGRAM, SOCK_NONBLOCK, SOCK_CLOEXEC. */
const DATAGRAM_NONBLOCK_CLOEXEC = 0x80802;
const MOST_BYTES = 65_536;
const LOOK_MS = 5;

const SYMBOLS = {
  socket: { parameters: ["i32", /* domain */ "i32", /* type */ "i32" /* protocol */], result: "i32" },
  bind: { parameters: ["i32", /* sockfd */ "buffer", /* addr */ "u32" /* addrlen */], result: "i32" },
  recv: { parameters: ["i32", /* sockfd */ "buffer", /* buf */ "usize", /* len */ "i32" /* flags */], result: "isize" },
  close: { parameters: ["i32" /* fd */], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** Bound to a path, or to `@` and an abstract name. */
export class DatagramSocket implements Disposable {
  readonly #libc = Deno.dlopen("libc.so.6", SYMBOLS);
  readonly #fd: number;
  /** Everything received so far. */
  readonly received: string[] = [];

  constructor(name: string) {
    const bytes = new TextEncoder().encode(name);
    const address = new Uint8Array([AF_UNIX, 0, ...bytes]);
    if (name.startsWith("@")) address[2] = 0;
    this.#fd = this.#libc.symbols.socket(AF_UNIX, DATAGRAM_NONBLOCK_CLOEXEC, 0);
    if (this.#libc.symbols.bind(this.#fd, address, address.length) < 0) throw new Error(`Cannot bind to ${name}`);
  }

  /** Takes what has arrived. */
  take(): readonly string[] {
    const room = new Uint8Array(MOST_BYTES);
    for (;;) {
      const count = Number(this.#libc.symbols.recv(this.#fd, room, BigInt(room.length), 0));
      if (count < 0) return this.received;
      this.received.push(new TextDecoder().decode(room.subarray(0, count)));
    }
  }

  /** Waits for a datagram that matches, among all that were received, and returns its index. */
  async get(what: RegExp, timeoutMs = 30_000): Promise<number> {
    for (const end = performance.now() + timeoutMs; performance.now() < end;) {
      const index = this.take().findIndex((text) => what.test(text));
      if (index >= 0) return index;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    throw new Error(`no datagram ${what} in time; received: ${JSON.stringify(this.received)}`);
  }

  [Symbol.dispose](): void {
    this.#libc.symbols.close(this.#fd);
    this.#libc.close();
  }
}

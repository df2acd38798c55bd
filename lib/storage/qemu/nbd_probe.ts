/**
 * A reader of an NBD export that reads its first sector, to learn whether its readers still can (NBD: doc/proto.md).
 */

import { XenblkError } from "../../errors.ts";
import { SECTOR_BYTES } from "../../units.ts";

const FIXED_NEWSTYLE = 1;
const NO_ZEROES = 2;
const OPT_GO = 7;
const REPLY_ACK = 1;
const REPLY_ERROR = 0x8000_0000;
const REQUEST_MAGIC = 0x2560_9513;
const READ = 0;
const OPTION_MAGIC = "IHAVEOPT";
/** The longest reply to an option that is accepted, in bytes. */
const MOST_REPLY_BYTES = 65_536;

/** A connection to one export. */
export class NbdProbe implements Disposable {
  readonly #connection: Deno.UnixConn;
  #isClosed = false;

  private constructor(connection: Deno.UnixConn) {
    this.#connection = connection;
  }

  /** Connects. Rejects with {@linkcode XenblkError} if the server does not have the export, and with Deno's errors. */
  static async connect(socket: string, name: string): Promise<NbdProbe> {
    const probe = new NbdProbe(await Deno.connect({ transport: "unix", path: socket }));
    try {
      await probe.#choose(name);
      return probe;
    } catch (error) {
      probe[Symbol.dispose]();
      throw error;
    }
  }

  /** Reads the first sector: 0, or the error number of the protocol. Rejects if the connection has ended. */
  async read(): Promise<number> {
    const request = new DataView(new ArrayBuffer(28));
    request.setUint32(0, REQUEST_MAGIC);
    request.setUint16(6, READ);
    request.setUint32(24, SECTOR_BYTES);
    await this.#send(new Uint8Array(request.buffer));
    const reply = await this.#take(16);
    const error = reply.getUint32(4);
    if (error === 0) await this.#take(SECTOR_BYTES);
    return error;
  }

  /** A read that waits rejects. */
  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#connection.close();
  }

  async #choose(name: string): Promise<void> {
    await this.#take(18);
    const bytes = new TextEncoder().encode(name);
    const choice = new DataView(new ArrayBuffer(4 + 16 + 4 + bytes.length + 2));
    const all = new Uint8Array(choice.buffer);
    choice.setUint32(0, FIXED_NEWSTYLE | NO_ZEROES);
    all.set(new TextEncoder().encode(OPTION_MAGIC), 4);
    choice.setUint32(12, OPT_GO);
    choice.setUint32(16, 4 + bytes.length + 2);
    choice.setUint32(20, bytes.length);
    all.set(bytes, 24);
    await this.#send(all);
    for (;;) {
      const reply = await this.#take(20);
      const [type, length] = [reply.getUint32(12), reply.getUint32(16)];
      if (type >= REPLY_ERROR || length > MOST_REPLY_BYTES) {
        throw new XenblkError(`Cannot read the NBD export ${name}: its server refuses it`);
      }
      await this.#take(length);
      if (type === REPLY_ACK) return;
    }
  }

  async #send(bytes: Uint8Array): Promise<void> {
    for (let sent = 0; sent < bytes.length;) sent += await this.#connection.write(bytes.subarray(sent));
  }

  async #take(length: number): Promise<DataView> {
    const bytes = new Uint8Array(length);
    for (let taken = 0; taken < length;) {
      const more = await this.#connection.read(bytes.subarray(taken));
      if (more === null) throw new Deno.errors.UnexpectedEof("the server has closed the connection");
      taken += more;
    }
    return new DataView(bytes.buffer);
  }
}

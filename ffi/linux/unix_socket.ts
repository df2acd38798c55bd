/**
 * Unix stream sockets whose calls never wait (unix(7)): connecting, sending a message together with descriptors
 * (SCM_RIGHTS, cmsg(3)), receiving, and a pair of sockets.
 */

import { EAGAIN, ENOENT } from "../../lib/errno.ts";
import { cString, errno, libc, pointerTo } from "./libc.ts";
import { allocate, type NativeMemory } from "./memory.ts";

const AF_UNIX = 1;
/** SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC. */
const STREAM_NONBLOCK_CLOEXEC = 0x80801;
/** sun_path of struct sockaddr_un, with the NUL at its end. */
const SOCKET_PATH_BYTES = 108;

const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SHUT_RDWR = 2;

/** O_PATH and O_CLOEXEC; and O_NOFOLLOW, which differs between architectures. */
const JUST_THIS = 0x280000 | (Deno.build.arch === "aarch64" ? 0x8000 : 0x20000);

/** A descriptor, or the errno of the call that failed. */
export type Opening = { readonly fd: number } | { readonly errno: number };

/** A nonblocking socket that is connected to a path. EAGAIN: the server has as many waiting clients as it queues. */
export function connectUnix(path: string): Opening {
  const bytes = cString(path);
  if (bytes.length > SOCKET_PATH_BYTES) return { errno: ENOENT };
  const address = new Uint8Array(2 + SOCKET_PATH_BYTES);
  address[0] = AF_UNIX;
  address.set(bytes, 2);
  const fd = libc().socket(AF_UNIX, STREAM_NONBLOCK_CLOEXEC, 0);
  if (fd < 0) return { errno: errno() };
  if (libc().connect(fd, address, 2 + bytes.length) === 0) return { fd };
  const reason = errno();
  libc().close(fd);
  return { errno: reason };
}

/**
 * The same for a socket in a folder that its server can write to: a link there, which could lead to another server, is
 * ECONNREFUSED.
 */
export function connectUnixItself(path: string): Opening {
  const socket = libc().open(cString(path), JUST_THIS, 0);
  if (socket < 0) return { errno: errno() };
  const opening = connectUnix(`/proc/self/fd/${socket}`);
  libc().close(socket);
  return opening;
}

/** Two nonblocking sockets that are connected to each other, or the errno of the call that failed. */
export function unixPair(): { readonly fds: readonly [number, number] } | { readonly errno: number } {
  const fds = new Int32Array(2);
  if (libc().socketpair(AF_UNIX, STREAM_NONBLOCK_CLOEXEC, 0, fds) < 0) return { errno: errno() };
  return { fds: [fds[0]!, fds[1]!] };
}

/**
 * Receives what has arrived, at most the buffer's length. Returns the bytes, 0 at the end of the connection, or a
 * negative errno. Descriptors that come with it are closed by the kernel.
 */
export function receive(fd: number, buffer: Uint8Array<ArrayBuffer>): number {
  const count = libc().recv(fd, buffer, BigInt(buffer.length), MSG_DONTWAIT);
  return count < 0 ? -errno() : count;
}

/** Ends a connection in both directions; the descriptor stays open. */
export function shutDown(fd: number): void {
  libc().shutdown(fd, SHUT_RDWR);
}

/** Where the parts of a message lie in the sender's memory. */
const MSGHDR_BYTES = 56;
const IOVEC_AT = 64;
const CONTROL_AT = 128;
const CMSGHDR_BYTES = 16;
const MOST_DESCRIPTORS = 8;
const BYTES_AT = 256;
const MOST_BYTES = 1024;

/** Sends small messages. Its memory is made once. */
export class MessageSender implements Disposable {
  readonly #memory: NativeMemory;
  readonly #view: DataView<ArrayBuffer>;
  readonly #pointer: Deno.PointerObject;

  constructor() {
    this.#memory = allocate(BYTES_AT + MOST_BYTES);
    this.#view = new DataView(this.#memory.view.buffer);
    this.#pointer = pointerTo(this.#memory.address);
  }

  /**
   * Sends a message as a whole, with descriptors of which the receiver gets copies. Returns 0 or a negative errno: EAGAIN
   * if there is no room for the whole message, after which the connection cannot be used.
   */
  send(fd: number, bytes: Uint8Array, descriptors: readonly number[] = []): number {
    if (bytes.length > MOST_BYTES || descriptors.length > MOST_DESCRIPTORS) {
      throw new RangeError(`Cannot send ${bytes.length} bytes and ${descriptors.length} descriptors in one message`);
    }
    this.#memory.view.set(bytes, BYTES_AT);
    this.#describe(bytes.length, descriptors);
    const sent = libc().sendmsg(fd, this.#pointer, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return -errno();
    return sent === bytes.length ? 0 : -EAGAIN;
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }

  /** Writes struct msghdr, its one struct iovec, and struct cmsghdr if there are descriptors. */
  #describe(lengthBytes: number, descriptors: readonly number[]): void {
    const view = this.#view;
    const { address } = this.#memory;
    const quad = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);
    this.#memory.view.fill(0, 0, MSGHDR_BYTES);
    quad(16, address + IOVEC_AT); // msg_iov
    quad(24, 1); // msg_iovlen
    quad(IOVEC_AT, address + BYTES_AT);
    quad(IOVEC_AT + 8, lengthBytes);
    if (descriptors.length === 0) return;
    const controlBytes = CMSGHDR_BYTES + descriptors.length * Int32Array.BYTES_PER_ELEMENT;
    quad(32, address + CONTROL_AT); // msg_control
    quad(40, Math.ceil(controlBytes / 8) * 8); // msg_controllen
    quad(CONTROL_AT, controlBytes); // cmsg_len
    view.setInt32(CONTROL_AT + 8, SOL_SOCKET, true);
    view.setInt32(CONTROL_AT + 12, SCM_RIGHTS, true);
    descriptors.forEach((descriptor, i) => view.setInt32(CONTROL_AT + CMSGHDR_BYTES + 4 * i, descriptor, true));
  }
}

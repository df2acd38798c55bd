/**
 * Datagrams to Unix sockets (unix(7)), as the service manager and the system's log take them. A call never waits.
 */

import { ENOENT } from "../../lib/errno.ts";
import { errno, libc } from "./libc.ts";

const AF_UNIX = 1;
/** SOCK_DGRAM, SOCK_NONBLOCK, SOCK_CLOEXEC. */
const DATAGRAM_NONBLOCK_CLOEXEC = 0x80802;
/** sun_path of struct sockaddr_un. */
const SOCKET_PATH_BYTES = 108;

/**
 * Sends one datagram to a socket: a path, or `@` and an abstract name. Returns 0 or a negative errno: EAGAIN if the
 * receiver has no room for it now.
 */
export function sendDatagram(socket: string, bytes: Uint8Array<ArrayBuffer>): number {
  const name = new TextEncoder().encode(socket);
  if (name.length === 0 || name.length >= SOCKET_PATH_BYTES || name.includes(0)) return -ENOENT;
  const address = new Uint8Array(2 + SOCKET_PATH_BYTES);
  address[0] = AF_UNIX;
  address.set(name, 2);
  if (socket.startsWith("@")) address[2] = 0;
  const fd = libc().socket(AF_UNIX, DATAGRAM_NONBLOCK_CLOEXEC, 0);
  if (fd < 0) return -errno();
  try {
    // An abstract name ends where the address ends; a path has its NUL.
    const lengthBytes = 2 + name.length + (socket.startsWith("@") ? 0 : 1);
    if (libc().connect(fd, address, lengthBytes) < 0) return -errno();
    return libc().writeBytes(fd, bytes, BigInt(bytes.length)) < 0 ? -errno() : 0;
  } finally {
    libc().close(fd);
  }
}

/**
 * Finds xenstored and connects to it: by its socket, else by the kernel's device, which a driver domain has. The places
 * are those of libxenstore.
 */

import { EACCES, EAGAIN, EMFILE, ENFILE, ENOENT } from "../../lib/errno.ts";
import { XenblkError } from "../../lib/errors.ts";
import { cString, errno, errnoText, libc } from "../linux/libc.ts";
import { connectUnix, type Opening } from "../linux/unix_socket.ts";

const DEFAULT_DIRECTORY = "/run/xenstored";
const DEVICE = "/dev/xen/xenbus";

/** O_RDWR, O_NONBLOCK, O_CLOEXEC. */
const READ_WRITE_NONBLOCK_CLOEXEC = 0x80802;
const RETRY_MS = 5;

/**
 * A non-blocking descriptor that is connected to xenstored. While more clients wait than xenstored queues, it is retried
 * until `patienceMs` are over. Throws {@linkcode XenblkError} of kind `hypervisor`.
 */
export function openXenstored(patienceMs: number): number {
  const socket = socketPath();
  const bySocket = openSocket(socket, performance.now() + patienceMs);
  if ("fd" in bySocket) return bySocket.fd;
  const byDevice = openDevice(DEVICE);
  if ("fd" in byDevice) return byDevice.fd;
  throw connectError(socket, bySocket.errno, byDevice.errno);
}

/** XENSTORED_PATH names the socket, XENSTORED_RUNDIR its directory. */
function socketPath(): string {
  return environment("XENSTORED_PATH") ?? `${environment("XENSTORED_RUNDIR") ?? DEFAULT_DIRECTORY}/socket`;
}

/** By getenv(3): Deno's permission to read the environment need not include what the C library reads. */
function environment(variable: string): string | undefined {
  const value = libc().getenv(cString(variable));
  return value === null ? undefined : Deno.UnsafePointerView.getCString(value);
}

function openSocket(path: string, deadlineMs: number): Opening {
  for (;;) {
    const opening = connectUnix(path);
    if ("fd" in opening || opening.errno !== EAGAIN || performance.now() >= deadlineMs) return opening;
    libc().poll(null, 0n, RETRY_MS);
  }
}

function openDevice(path: string): Opening {
  const fd = libc().open(cString(path), READ_WRITE_NONBLOCK_CLOEXEC, 0);
  return fd < 0 ? { errno: errno() } : { fd };
}

/** Why neither place could be opened. */
function connectError(socket: string, socketReason: number, deviceReason: number): XenblkError {
  const why = (text: string, remedy: string): XenblkError =>
    new XenblkError(`Cannot connect to xenstored: ${text}`, { kind: "hypervisor", remedy });
  const start = "start xenstored (on Debian: systemctl start xen)";
  if (socketReason === EMFILE || socketReason === ENFILE) {
    const whose = socketReason === EMFILE ? "this process" : "this machine";
    const limit = socketReason === EMFILE ? "ulimit -n, or LimitNOFILE= of the systemd unit" : "sysctl fs.file-max";
    return why(`${whose} may open no more files (${errnoText(socketReason)})`, `raise the limit (${limit})`);
  }
  for (const [place, reason] of [[socket, socketReason], [DEVICE, deviceReason]] as const) {
    if (reason === EACCES) {
      return why(`permission denied on ${place}`, `run as root, or give this user read and write access to ${place}`);
    }
  }
  if (socketReason === ENOENT && deviceReason === ENOENT) {
    return why(`neither ${socket} nor ${DEVICE} exists`, `${start}, or run in dom0 or in a driver domain`);
  }
  if (socketReason === EAGAIN) {
    return why(
      `${socket} accepts no more clients`,
      "check that xenstored is running and not stopped (ps), or restart it",
    );
  }
  if (socketReason !== ENOENT) return why(`${socket} is there, but nobody answers`, start);
  return why(`${DEVICE}: ${errnoText(deviceReason)}`, "run in dom0 or in a driver domain");
}

/**
 * One connection of libxenstore: opening it, why it could not be opened, and how its errno values become errors or the
 * loss of the connection.
 *
 * The library's calls wait for xenstored's answer and have no timeout: while the daemon is stopped, the calling thread
 * is blocked.
 */

import { EACCES, EINVAL, EIO, ENOENT, errnoName } from "../../lib/errno.ts";
import { XenblkError } from "../../lib/errors.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import { cString, errno, errnoText, libc } from "../linux/libc.ts";
import { lazily, openLibrary } from "../linux/library.ts";

const SYMBOLS = {
  xs_open: { parameters: ["u64" /* flags */], result: "pointer" },
  xs_close: { parameters: ["pointer" /* xsh */], result: "void" },
  xs_daemon_socket: { parameters: [], result: "pointer", optional: true },
  xs_directory: {
    parameters: ["pointer", /* h */ "u32", /* t */ "buffer", /* path */ "buffer" /* num */],
    result: "pointer",
  },
  xs_read: {
    parameters: ["pointer", /* h */ "u32", /* t */ "buffer", /* path */ "buffer" /* len */],
    result: "pointer",
  },
  xs_write: {
    parameters: ["pointer", /* h */ "u32", /* t */ "buffer", /* path */ "buffer", /* data */ "u32" /* len */],
    result: "bool",
  },
  xs_mkdir: { parameters: ["pointer", /* h */ "u32", /* t */ "buffer" /* path */], result: "bool" },
  xs_rm: { parameters: ["pointer", /* h */ "u32", /* t */ "buffer" /* path */], result: "bool" },
  xs_get_permissions: {
    parameters: ["pointer", /* h */ "u32", /* t */ "buffer", /* path */ "buffer" /* num */],
    result: "pointer",
  },
  xs_set_permissions: {
    parameters: ["pointer", /* h */ "u32", /* t */ "buffer", /* path */ "buffer", /* perms */ "u32" /* num_perms */],
    result: "bool",
  },
  xs_watch: { parameters: ["pointer", /* h */ "buffer", /* path */ "buffer" /* token */], result: "bool" },
  xs_unwatch: { parameters: ["pointer", /* h */ "buffer", /* path */ "buffer" /* token */], result: "bool" },
  xs_fileno: { parameters: ["pointer" /* h */], result: "i32" },
  xs_check_watch: { parameters: ["pointer" /* h */], result: "pointer" },
  xs_transaction_start: { parameters: ["pointer" /* h */], result: "u32" },
  xs_transaction_end: { parameters: ["pointer", /* h */ "u32", /* t */ "bool" /* abort */], result: "bool" },
  xs_get_domain_path: { parameters: ["pointer", /* h */ "u32" /* domid */], result: "pointer" },
  xs_is_domain_introduced: { parameters: ["pointer", /* h */ "u32" /* domid */], result: "bool" },
} as const satisfies Deno.ForeignLibraryInterface;

/** libxenstore's functions, under their C names. */
export type XenstoreSymbols = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

const libxenstore = lazily(() =>
  openLibrary({
    name: "libxenstore",
    sonames: ["libxenstore.so.4", "libxenstore.so.3.0"],
    debianPackage: "libxenstore4",
    variable: "XENBLK_LIBXENSTORE",
  }, SYMBOLS).symbols
);

const DEFAULT_SOCKET = "/run/xenstored/socket";
const DEVICE = "/dev/xen/xenbus";
const R_OK_W_OK = 6;

/** What an operation's errno means beyond its name. Others are shown as the C library words them. */
const REASONS: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EINVAL: "not a valid xenstore path or value",
  ENOENT: "there is no such node or domain",
  ENOSPC: "xenstored's quota for this domain is used up",
  E2BIG: "too long for xenstore",
};

/** These come from the connection, never from xenstored's answer. */
const LOSSES = new Set(["EBADF", "EPIPE", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "ETIMEDOUT"]);

/** A connection to xenstored. Whoever holds one must not use {@linkcode handle} after disposal or loss. */
export class XenstoreConnection implements Disposable {
  readonly symbols: XenstoreSymbols = libxenstore();
  /** Resolves with the reason when the connection is lost; not when it is closed here. */
  readonly lost: Promise<string>;
  readonly #resolveLost: (reason: string) => void;
  #handle: Deno.PointerObject | undefined;
  #lossReason: string | undefined;

  /** Throws {@linkcode XenblkError} of kind `hypervisor` if the library is missing or xenstored does not answer. */
  constructor() {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.lost = promise;
    this.#resolveLost = resolve;
    const handle = this.symbols.xs_open(0n);
    if (handle === null) throw connectError(this.symbols);
    this.#handle = handle;
  }

  /** The library's handle. Throws {@linkcode XenstoreError} EDISCONNECTED once it is lost; TypeError once closed. */
  handle(action: string, path: string): Deno.PointerObject {
    if (this.#lossReason !== undefined) {
      throw new XenstoreError(`Cannot ${action} ${path}: ${this.#lossReason}`, "EDISCONNECTED", path);
    }
    if (this.#handle === undefined) throw new TypeError(`Cannot ${action} ${path}: the connection is closed`);
    return this.#handle;
  }

  /** Neither closed nor lost. */
  get isUsable(): boolean {
    return this.#handle !== undefined && this.#lossReason === undefined;
  }

  /** The error of the call that failed just now. If the call failed because the connection is lost, declares that. */
  error(action: string, path: string, errnoValue: number = errno()): XenstoreError {
    const name = errnoName(errnoValue);
    if (LOSSES.has(name) || ((errnoValue === EINVAL || errnoValue === EIO) && !this.#answers())) {
      this.declareLost(`the connection to xenstored is lost (${name})`);
      return new XenstoreError(`Cannot ${action} ${path}: ${this.#lossReason}`, "EDISCONNECTED", path);
    }
    return new XenstoreError(`Cannot ${action} ${path}: ${REASONS[name] ?? errnoText(errnoValue)}`, name, path);
  }

  /** Marks the connection as lost, once. The library's handle stays allocated until disposal. */
  declareLost(reason: string): void {
    if (!this.isUsable) return;
    this.#lossReason = reason;
    this.#resolveLost(reason);
  }

  [Symbol.dispose](): void {
    const handle = this.#handle;
    this.#handle = undefined;
    if (handle !== undefined) this.symbols.xs_close(handle);
  }

  /**
   * The library says EINVAL both for a bad argument and, once its reading thread ended, for a lost connection; then
   * every further call fails too. So ask something that cannot be wrong.
   */
  #answers(): boolean {
    if (this.#handle === undefined) return false;
    const answer = this.symbols.xs_get_domain_path(this.#handle, 0);
    if (answer === null) return false;
    libc().free(answer);
    return true;
  }
}

/** xs_open tells only the reason of its second try, the device; so look at both places. */
function connectError(symbols: XenstoreSymbols): XenblkError {
  const reason = errno();
  const named = symbols.xs_daemon_socket?.() ?? null;
  const socket = named === null ? DEFAULT_SOCKET : Deno.UnsafePointerView.getCString(named);
  const why = (text: string, remedy: string): XenblkError =>
    new XenblkError(`Cannot connect to xenstored: ${text}`, { kind: "hypervisor", remedy });
  const socketReason = accessReason(socket);
  const deviceReason = accessReason(DEVICE);
  for (const [place, placeReason] of [[socket, socketReason], [DEVICE, deviceReason]] as const) {
    if (placeReason === EACCES) {
      return why(`permission denied on ${place}`, `run as root, or give this user read and write access to ${place}`);
    }
  }
  if (socketReason === ENOENT && deviceReason === ENOENT) {
    return why(
      `neither ${socket} nor ${DEVICE} exists`,
      "start xenstored (on Debian: systemctl start xen), or run in dom0 or in a driver domain",
    );
  }
  if (socketReason === 0) {
    return why(`${socket} is there, but nobody answers`, "start xenstored (on Debian: systemctl start xen)");
  }
  return why(`${deviceReason === 0 ? DEVICE : socket}: ${errnoText(reason)}`, "run in dom0 or in a driver domain");
}

/** 0 if the file may be read and written, else the errno. */
function accessReason(path: string): number {
  return libc().access(cString(path), R_OK_W_OK) === 0 ? 0 : errno();
}

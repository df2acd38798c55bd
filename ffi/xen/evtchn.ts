/**
 * The real event channels: libxenevtchn for binding and notifying, read(2) and write(2) of its file descriptor for
 * taking and unmasking many ports at once.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { EAGAIN, EFBIG, EINTR } from "../../lib/errno.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId, EventChannels, EvtchnPort } from "../../lib/hypervisor.ts";
import { EVENTS_OVERFLOWED } from "../../lib/hypervisor.ts";
import { deviceError } from "./device.ts";
import { errno, errnoText, libc, pointerTo } from "../linux/libc.ts";
import { lazily, openLibrary } from "../linux/library.ts";
import { allocate, type NativeMemory } from "../linux/memory.ts";

const SYMBOLS = {
  xenevtchn_open: { parameters: ["pointer", /* logger */ "u32" /* flags */], result: "pointer" },
  xenevtchn_close: { parameters: ["pointer" /* xce */], result: "i32" },
  xenevtchn_fd: { parameters: ["pointer" /* xce */], result: "i32" },
  xenevtchn_bind_interdomain: {
    parameters: ["pointer", /* xce */ "u32", /* domid */ "u32" /* remote_port */],
    result: "i32",
  },
  xenevtchn_bind_unbound_port: { parameters: ["pointer", /* xce */ "u32" /* domid */], result: "i32" },
  xenevtchn_notify: { parameters: ["pointer", /* xce */ "u32" /* port */], result: "i32" },
  xenevtchn_unbind: { parameters: ["pointer", /* xce */ "u32" /* port */], result: "i32" },
  /* Since Xen 4.9. */
  xenevtchn_restrict: { parameters: ["pointer", /* xce */ "u16" /* domid */], result: "i32", optional: true },
} as const satisfies Deno.ForeignLibraryInterface;

const libxenevtchn = lazily(() =>
  openLibrary({
    name: "libxenevtchn",
    sonames: ["libxenevtchn.so.1"],
    debianPackage: "libxenevtchn1",
    variable: "XENBLK_LIBXENEVTCHN",
  }, SYMBOLS).symbols
);

const EVTCHN = { purpose: "event channels", path: "/dev/xen/evtchn", kernelModule: "xen-evtchn" };

const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0x800;
/** IOCTL_EVTCHN_RESET of xen/sys/evtchn.h: empties the driver's queue and clears its overflow. */
const IOCTL_EVTCHN_RESET = 0x4505n;
const PORT_BYTES = Uint32Array.BYTES_PER_ELEMENT;
/** The driver reads and writes at most one page of ports per call. */
const MAX_PORTS = PAGE_BYTES / PORT_BYTES;

/** Event channels through one handle of libxenevtchn. */
export class NativeEventChannels implements EventChannels {
  /** Becomes readable when a port fires. */
  readonly fd: number;
  readonly #library = libxenevtchn();
  readonly #libc = libc();
  #handle: Deno.PointerObject | undefined;
  readonly #bound = new Set<EvtchnPort>();
  readonly #buffer: NativeMemory;
  readonly #ports: Uint32Array;
  readonly #pointer: Deno.PointerObject;
  /** The domain that the handle is for; restricted to it by the first binding, if the kernel can. */
  readonly #other: DomId;
  #unrestricted: string | undefined = "nothing is bound yet";
  /** {@linkcode fired} is called when there may be something to take. */
  #watched = false;
  /** There may be something to take. */
  #mayHaveFired = true;
  /** The driver's queue may hold an event of a port that is no longer bound. */
  #stale = false;
  /** Ports that the last caller had room for, and their bytes as read(2) takes them. */
  #room = 0;
  #roomBytes = 0n;

  /** Throws {@linkcode XenblkError} of kind `hypervisor` if the library or /dev/xen/evtchn is missing or forbidden. */
  constructor(other: DomId) {
    this.#other = other;
    const handle = this.#library.xenevtchn_open(null, 0);
    if (handle === null) throw deviceError(EVTCHN, errno());
    this.#handle = handle;
    this.fd = this.#library.xenevtchn_fd(handle);
    const flags = this.#libc.fcntl(this.fd, F_GETFL, 0n);
    if (flags < 0 || this.#libc.fcntl(this.fd, F_SETFL, BigInt(flags | O_NONBLOCK)) < 0) {
      const reason = errno();
      this.#library.xenevtchn_close(handle);
      throw deviceError(EVTCHN, reason);
    }
    this.#buffer = allocate(PAGE_BYTES);
    this.#ports = new Uint32Array(this.#buffer.view.buffer);
    this.#pointer = pointerTo(this.#buffer.address);
  }

  get unrestricted(): string | undefined {
    return this.#unrestricted;
  }

  bindInterdomain(remoteDomain: DomId, remotePort: EvtchnPort): EvtchnPort {
    if (this.#bound.size === 0 && this.#unrestricted !== undefined) this.#restrict();
    const port = this.#library.xenevtchn_bind_interdomain(this.#open(), remoteDomain, remotePort);
    if (port < 0) throw failure(`bind to event channel ${remotePort} of domain ${remoteDomain}`);
    return this.#remember(port);
  }

  bindUnbound(remoteDomain: DomId): EvtchnPort {
    const port = this.#library.xenevtchn_bind_unbound_port(this.#open(), remoteDomain);
    if (port < 0) throw failure(`make an event channel for domain ${remoteDomain}`);
    return this.#remember(port);
  }

  notify(port: EvtchnPort): void {
    if (this.#library.xenevtchn_notify(this.#open(), port) < 0) throw failure(`notify through event channel ${port}`);
  }

  /** While it is watched, {@linkcode take} asks the kernel only after {@linkcode fired}. */
  setWatched(watched: boolean): void {
    this.#watched = watched;
    this.#mayHaveFired = true;
  }

  fired(): void {
    this.#mayHaveFired = true;
  }

  /** An event of the port that fired before may still be taken. */
  unbind(port: EvtchnPort): void {
    if (this.#library.xenevtchn_unbind(this.#open(), port) < 0) throw failure(`unbind event channel ${port}`);
    this.#bound.delete(port);
    this.#stale = this.#mayHaveFired = true;
  }

  /**
   * Looks no further when `ports` is full: the descriptor then stays readable, so that a park returns at once. Ports
   * are unmasked before this returns, so that an event during the caller's work fires again.
   */
  take(ports: Uint32Array): number {
    this.#open();
    if (this.#watched && !this.#mayHaveFired) return 0;
    this.#setRoom(Math.min(ports.length, MAX_PORTS));
    let readBytes = this.#libc.read(this.fd, this.#pointer, this.#roomBytes);
    while (readBytes < 0) {
      const reason = errno();
      if (reason === EAGAIN) {
        this.#mayHaveFired = this.#stale = false;
        return 0;
      }
      if (reason === EFBIG) return this.#reset();
      if (reason !== EINTR) throw failure("read event channels", reason);
      readBytes = this.#libc.read(this.fd, this.#pointer, this.#roomBytes);
    }
    const count = readBytes / PORT_BYTES;
    // The driver wakes no reader for a port that fires while others are being read. A single port cannot: it is masked.
    if (this.#bound.size === 1 && !this.#stale) this.#mayHaveFired = false;
    for (let index = 0; index < count; index++) ports[index] = this.#ports[index]!;
    this.#unmask(count);
    return count;
  }

  /** Unbinds every port: the other ends' ports can be bound anew. */
  [Symbol.dispose](): void {
    const handle = this.#handle;
    if (handle === undefined) return;
    this.#handle = undefined;
    this.#bound.clear();
    this.#library.xenevtchn_close(handle);
    this.#buffer[Symbol.dispose]();
  }

  #open(): Deno.PointerObject {
    if (this.#handle === undefined) throw new TypeError("Cannot use event channels: closed");
    return this.#handle;
  }

  /**
   * Whatever comes to use this handle later can bind to no other domain. Not before the first binding to another
   * domain's port: a frontend's handle makes ports, which a restricted one may not.
   */
  #restrict(): void {
    const restrict = this.#library.xenevtchn_restrict;
    if (restrict === null) this.#unrestricted = "libxenevtchn is too old";
    else this.#unrestricted = restrict(this.#open(), this.#other) < 0 ? errnoText(errno()) : undefined;
  }

  #remember(port: number): EvtchnPort {
    this.#bound.add(port as EvtchnPort);
    return port as EvtchnPort;
  }

  #setRoom(room: number): void {
    if (room === this.#room) return;
    this.#room = room;
    this.#roomBytes = BigInt(room * PORT_BYTES);
  }

  /** Unmasks the first `count` ports of the buffer. The driver ignores ports that are not masked, or not ours. */
  #unmask(count: number): void {
    if (count > 0 && this.#libc.write(this.fd, this.#pointer, BigInt(count * PORT_BYTES)) < 0) {
      throw failure("unmask event channels");
    }
  }

  /**
   * After an overflow the driver refuses to be read until it is reset, and the ports whose events it dropped stay
   * masked: unmask them all.
   */
  #reset(): number {
    if (this.#libc.ioctl(this.fd, IOCTL_EVTCHN_RESET, 0n) < 0) throw failure("reset event channels after an overflow");
    let count = 0;
    for (const port of this.#bound) {
      this.#ports[count++] = port;
      if (count < MAX_PORTS) continue;
      this.#unmask(count);
      count = 0;
    }
    this.#unmask(count);
    return EVENTS_OVERFLOWED;
  }
}

function failure(action: string, reason: number = errno()): XenblkError {
  return new XenblkError(`Cannot ${action}: ${errnoText(reason)}`);
}

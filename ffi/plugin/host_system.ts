/**
 * What the process of a plugin needs of Linux: the shared memory, a place to sleep, limits, and that it ends with the
 * process that serves its disk. It is opened before the plugin is imported; then the permission to call C ends. This file
 * shares no code with ffi/linux: the plugin could import that, and find its libraries open.
 */

import { MEMORY_BYTES } from "./layout.ts";

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const F_SETFD = 2;
const FD_CLOEXEC = 1n;
const POLLIN = 1;
const PR_SET_PDEATHSIG = 1;
const PR_SET_NO_NEW_PRIVS = 38;
const SIGKILL = 9n;
const SIGXFSZ = 25;
const SIG_IGN = 1n;
const RLIMIT_FSIZE = 1;
const RLIMIT_DATA = 2;
const RLIMIT_CORE = 4;
/** What the process may need beside the plugin's memory: threads of the pool, code. */
const OTHER_BYTES = 128 * 2 ** 20;

/** What the process was started with; see spawn.ts. */
export interface SystemArguments {
  /** Inherited descriptors: of the memory; eventfds that end the sleep, and that tell the control plane. */
  readonly memoryFd: number;
  readonly bellFd: number;
  readonly newsFd: number;
  /** By channel: the eventfd that wakes its reactor. */
  readonly callFds: readonly number[];
  /** The process that serves the disk. */
  readonly parent: number;
  /** See PluginSettings. */
  readonly memoryBytes: number;
  /** It may write to files. */
  readonly writesFiles: boolean;
}

/** Linux, as far as the process may still reach it. */
export interface HostSystem {
  readonly memory: ArrayBuffer;
  /** Sleeps until the bell rings, while the event loop runs. */
  sleep(): Promise<void>;
  /** Raises an eventfd. */
  ring(fd: number): void;
}

const SYMBOLS = {
  mmap: {
    parameters: [
      "pointer", /* addr */
      "usize", /* length */
      "i32", /* prot */
      "i32", /* flags */
      "i32", /* fd */
      "i64", /* offset */
    ],
    result: "usize",
  },
  fcntl: { parameters: ["i32", /* fd */ "i32", /* op */ "u64" /* arg */], result: "i32" },
  prctl: { parameters: ["i32", /* op */ "u64", "u64", "u64", "u64"], result: "i32" },
  getppid: { parameters: [], result: "i32" },
  signal: { parameters: ["i32", /* signum */ "usize" /* handler */], result: "usize" },
  setrlimit: { parameters: ["i32", /* resource */ "buffer" /* rlim */], result: "i32" },
  open: { parameters: ["buffer", /* pathname */ "i32", /* flags */ "u32" /* mode */], result: "i32" },
  read: { parameters: ["i32", /* fd */ "buffer", /* buf */ "usize" /* count */], result: "i32" },
  close: { parameters: ["i32" /* fd */], result: "i32" },
  poll: {
    parameters: ["pointer", /* fds */ "u64", /* nfds */ "i32" /* timeout */],
    result: "i32",
    nonblocking: true,
  },
  eventfd_read: { parameters: ["i32", /* fd */ "buffer" /* value */], result: "i32" },
  eventfd_write: { parameters: ["i32", /* fd */ "u64" /* value */], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

type Symbols = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

/** Opens it, and gives the permission to call C back. Throws an Error if Linux refuses something. */
export function openSystem(parts: SystemArguments): HostSystem {
  const { symbols } = Deno.dlopen("libc.so.6", SYMBOLS);
  bindToParent(symbols, parts.parent);
  const { memoryFd, bellFd, newsFd, callFds } = parts;
  for (const fd of [memoryFd, bellFd, newsFd, ...callFds]) symbols.fcntl(fd, F_SETFD, FD_CLOEXEC);
  const memory = map(symbols, memoryFd);
  symbols.close(memoryFd);
  limit(symbols, RLIMIT_DATA, dataBytes(symbols) + parts.memoryBytes + OTHER_BYTES);
  limit(symbols, RLIMIT_CORE, 0);
  if (!parts.writesFiles) forbidFiles(symbols);
  const polled = new Int32Array([bellFd, POLLIN]);
  const pointer = Deno.UnsafePointer.of(polled);
  const count = new Uint8Array(8);
  Deno.permissions.revokeSync({ name: "ffi" });
  const { poll, eventfd_read, eventfd_write } = symbols;
  return {
    memory,
    async sleep(): Promise<void> {
      polled[1] = POLLIN;
      await poll(pointer, 1n, -1);
      eventfd_read(bellFd, count);
    },
    ring: (fd) => void eventfd_write(fd, 1n),
  };
}

/** Without a permission to write, there still are stores in Deno's own directory: `caches` and `localStorage`. */
function forbidFiles(symbols: Symbols): void {
  symbols.signal(SIGXFSZ, SIG_IGN); // a write to a file fails, and ends nothing
  limit(symbols, RLIMIT_FSIZE, 0);
}

/** The process ends with its parent, and gains no privileges. */
function bindToParent(symbols: Symbols, parent: number): void {
  check(symbols.prctl(PR_SET_PDEATHSIG, SIGKILL, 0n, 0n, 0n), "follow its parent");
  if (symbols.getppid() !== parent) throw new Error("Cannot serve: the process that started this one has ended");
  check(symbols.prctl(PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n), "give up privileges");
}

function map(symbols: Symbols, fd: number): ArrayBuffer {
  const address = symbols.mmap(null, BigInt(MEMORY_BYTES), PROT_READ_WRITE, MAP_SHARED, fd, 0n);
  const pointer = address === 0xFFFF_FFFF_FFFF_FFFFn ? null : Deno.UnsafePointer.create(address);
  if (pointer === null) throw new Error("Cannot map the memory that is shared with the backend");
  return Deno.UnsafePointerView.getArrayBuffer(pointer, MEMORY_BYTES);
}

/** Bytes of data that the process has by now (proc_pid_status(5), VmData). */
function dataBytes(symbols: Symbols): number {
  const fd = check(symbols.open(new TextEncoder().encode("/proc/self/status\0"), 0, 0), "read its own status");
  const text = new Uint8Array(4096);
  const length = symbols.read(fd, text, BigInt(text.length));
  symbols.close(fd);
  const kilobytes = /^VmData:\s+(\d+) kB$/m.exec(new TextDecoder().decode(text.subarray(0, Math.max(0, length))))?.[1];
  if (kilobytes === undefined) throw new Error("Cannot find its own memory in /proc/self/status");
  return Number(kilobytes) * 1024;
}

/** setrlimit(2), for the hard limit too. */
function limit(symbols: Symbols, resource: number, value: number): void {
  const pair = new BigUint64Array([BigInt(value), BigInt(value)]);
  check(symbols.setrlimit(resource, new Uint8Array(pair.buffer)), "limit its memory");
}

function check(result: number, action: string): number {
  if (result < 0) throw new Error(`Cannot ${action}: Linux refuses it`);
  return result;
}

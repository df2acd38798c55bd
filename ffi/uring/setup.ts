/**
 * Makes an io_uring: the setup call with fallbacks for older kernels, the mapping of the memory that the kernel shares,
 * and, if the kernel refuses, the reason.
 */

import { EAGAIN, EINVAL, ENOMEM } from "../../lib/errno.ts";
import type { Refusal } from "../../lib/hypervisor.ts";
import { outOfResource } from "../../lib/storage/image/explain.ts";
import {
  errno,
  errnoText,
  libc,
  LIBC_SOURCE,
  MAP_POPULATE,
  MAP_SHARED,
  pointerTo,
  PROT_READ,
  PROT_WRITE,
} from "../linux/libc.ts";
import { lazily, openLibrary } from "../linux/library.ts";
import { allocate, NativeMemory } from "../linux/memory.ts";

const SETUP_CQSIZE = 1 << 3;
const SETUP_CLAMP = 1 << 4;
const SETUP_COOP_TASKRUN = 1 << 8;
const SETUP_TASKRUN_FLAG = 1 << 9;
const SETUP_SINGLE_ISSUER = 1 << 12;
const SETUP_DEFER_TASKRUN = 1 << 13;
const SETUP_NO_SQARRAY = 1 << 16;

/**
 * From the newest kernel's to the oldest's: 6.6, 6.1, 5.19, 5.13. Deferred work is done when the ring is entered, that
 * is, when this thread is about to look at completions anyway; a flag in the ring says when there is some.
 */
const SETUP_FLAGS = [
  SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_TASKRUN_FLAG | SETUP_NO_SQARRAY,
  SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_TASKRUN_FLAG,
  SETUP_COOP_TASKRUN | SETUP_TASKRUN_FLAG,
  0,
];

/** One mapping for both rings, no lost completions, timeouts by argument; and, with 5.13 like multishot polls, tags. */
const FEATURES_NEEDED = (1 << 0) | (1 << 1) | (1 << 8) | (1 << 10);

/** struct io_uring_params in words, and where in it the two rings' offsets begin. */
const PARAMS_WORDS = 30;
const PARAMS_SQ = 10;
const PARAMS_CQ = 20;

/** Words of a submission and of a completion. */
export const SQE_WORDS = 16;
/** See {@linkcode SQE_WORDS}: user data low and high, result, flags. */
export const CQE_WORDS = 4;

const OFFSET_RINGS = 0n;
const OFFSET_SQES = 0x1000_0000n;
const MAP_FAILED = 0xFFFF_FFFF_FFFF_FFFFn;

const EPERM = 1;
const ENOSYS = 38;

/* syscall(2) is variadic in C; the ABIs of x86-64 and aarch64 Linux pass these like fixed parameters. */
const SYMBOLS = {
  setup: {
    name: "syscall",
    parameters: ["i64", /* number */ "u32", /* entries */ "pointer" /* params */],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;

const SYS_SETUP = 425n;
const calls = lazily(() => openLibrary(LIBC_SOURCE, SYMBOLS).symbols);

/** io_uring_setup(2): a descriptor or a negative errno; fills the parameters in. Tests give one that fails. */
export type SetupCall = (entries: number, params: NativeMemory) => number;

/** The kernel's own. */
export const kernelSetup: SetupCall = (entries, params) => {
  const fd = calls().setup(SYS_SETUP, entries, pointerTo(params.address));
  return fd < 0 ? -errno() : fd;
};

/** io_uring cannot be used; the message says why, as the end of a sentence. */
export class RingUnavailable extends Error {
  override readonly name = "RingUnavailable";
  readonly remedy: string;

  constructor({ reason, remedy }: Refusal) {
    super(reason);
    this.remedy = remedy;
  }
}

/** The size of a reactor's ring: submissions between two calls of the kernel, and completions; the kernel keeps more. */
export const REACTOR_RING = { entries: 512, completions: 4096 } as const;

/** What a ring is made with. */
export interface RingOptions {
  /** Submissions that fit between two calls of the kernel; a power of two. */
  readonly entries: number;
  /** Completions that fit (more wait in the kernel); a power of two. */
  readonly completions: number;
  readonly setup?: SetupCall;
}

/** What the kernel shares with us, and indices into it. Disposing unmaps it and closes the ring. */
export interface MappedRing extends Disposable {
  readonly fd: number;
  /** The setup flags that the kernel took. */
  readonly flags: number;
  readonly entries: number;
  /** Both rings. */
  readonly words: Int32Array;
  /** The submissions. */
  readonly sqes: Uint32Array;
  readonly completions: Int32Array;
  readonly completionCount: number;
  /** Indices into {@linkcode words}. */
  readonly sqHead: number;
  readonly sqTail: number;
  readonly sqFlags: number;
  readonly cqHead: number;
  readonly cqTail: number;
}

/** Makes and maps a ring. Throws {@linkcode RingUnavailable}. */
export function openRing(options: RingOptions): MappedRing {
  using undo = new DisposableStack();
  using params = allocate(PARAMS_WORDS * Uint32Array.BYTES_PER_ELEMENT);
  const { fd, flags } = setUp(options, params);
  undo.defer(() => void libc().close(fd));
  const words = new Uint32Array(params.view.buffer);
  if ((words[5]! & FEATURES_NEEDED) !== FEATURES_NEEDED) {
    throw new RingUnavailable({ reason: "this kernel's io_uring is too old", remedy: NEWER });
  }
  const [entries, completionCount] = [words[0]!, words[1]!];
  const [sq, cq] = [words.subarray(PARAMS_SQ), words.subarray(PARAMS_CQ)];
  const ringBytes = Math.max(sq[6]! + entries * 4, cq[5]! + completionCount * CQE_WORDS * 4);
  const rings = undo.use(mapRing(fd, ringBytes, OFFSET_RINGS));
  const sqes = undo.use(mapRing(fd, entries * SQE_WORDS * 4, OFFSET_SQES));
  const ringWords = new Int32Array(rings.view.buffer);
  // Older kernels take submissions by their numbers from an array: each stays in its place.
  if ((flags & SETUP_NO_SQARRAY) === 0) { for (let i = 0; i < entries; i++) ringWords[sq[6]! / 4 + i] = i; }
  const owned = undo.move();
  return {
    fd,
    flags,
    entries,
    words: ringWords,
    sqes: new Uint32Array(sqes.view.buffer),
    completions: new Int32Array(rings.view.buffer, cq[5]!, completionCount * CQE_WORDS),
    completionCount,
    sqHead: sq[0]! / 4,
    sqTail: sq[1]! / 4,
    sqFlags: sq[4]! / 4,
    cqHead: cq[0]! / 4,
    cqTail: cq[1]! / 4,
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** Why this process cannot make a reactor's ring; undefined: it can. */
export function ringRefusal(setup: SetupCall = kernelSetup): Refusal | undefined {
  try {
    openRing({ ...REACTOR_RING, setup })[Symbol.dispose]();
    return undefined;
  } catch (error) {
    if (error instanceof RingUnavailable) return { reason: error.message, remedy: error.remedy };
    throw error;
  }
}

function setUp({ entries, completions, setup = kernelSetup }: RingOptions, params: NativeMemory): {
  readonly fd: number;
  readonly flags: number;
} {
  const words = new Uint32Array(params.view.buffer);
  let result = 0;
  for (const flags of SETUP_FLAGS) {
    words.fill(0);
    words[1] = completions;
    words[2] = flags | SETUP_CQSIZE | SETUP_CLAMP;
    result = setup(entries, params);
    if (result >= 0) return { fd: result, flags };
    if (result !== -EINVAL) break; // flags unknown to the kernel are all that another attempt could mend
  }
  throw new RingUnavailable(explain(-result));
}

const NEWER = "use Linux 5.13 or newer";
const FILTER = "let the service's system-call filter pass io_uring_setup, io_uring_enter and io_uring_register";

/** What an errno of the setup, or of mapping its rings, means to an operator. */
function explain(errnoValue: number): Refusal {
  switch (errnoValue) {
    case ENOSYS:
      return {
        reason: "this kernel has no io_uring, or a system-call filter hides it",
        remedy: `${NEWER}, and ${FILTER}`,
      };
    case EPERM:
      return forbidden();
    case ENOMEM:
    case EAGAIN:
      return {
        reason: "there is not enough memory for its rings, or not as much may be locked",
        remedy: "raise the limit of locked memory (LimitMEMLOCK=, ulimit -l), or the control group's of memory",
      };
  }
  const exhausted = outOfResource(-errnoValue);
  if (exhausted !== undefined) return { reason: exhausted.why, remedy: exhausted.remedy };
  return { reason: `the kernel refuses it: ${errnoText(errnoValue)}`, remedy: NEWER };
}

/** Refused by the kernel's own switch, or else by a seccomp filter. */
function forbidden(): Refusal {
  const value = disabledSwitch();
  if (value === undefined || value === "0") {
    return { reason: "it is not permitted: a system-call filter (seccomp) forbids it", remedy: FILTER };
  }
  const remedy = "sysctl kernel.io_uring_disabled=0";
  if (value !== "1") return { reason: `kernel.io_uring_disabled=${value} forbids it`, remedy };
  return {
    reason: "kernel.io_uring_disabled=1 allows it to privileged processes only",
    remedy: `${remedy}, or run with CAP_SYS_ADMIN or in the group that kernel.io_uring_group names`,
  };
}

function disabledSwitch(): string | undefined {
  try {
    return Deno.readTextFileSync("/proc/sys/kernel/io_uring_disabled").trim();
  } catch {
    return undefined; // older kernels have no such switch
  }
}

function mapRing(fd: number, lengthBytes: number, offset: bigint): NativeMemory {
  const length = BigInt(lengthBytes);
  const address = libc().mmap(null, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
  if (address === MAP_FAILED) throw new RingUnavailable(explain(errno()));
  return new NativeMemory(Number(address), lengthBytes, () => {
    libc().munmap(address, length);
  });
}

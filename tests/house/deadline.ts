/**
 * A deadline for every test, as a preload of `deno test`: a test that hangs ends within a minute, with its name. Each
 * test without a `timeout` of its own gets one. Deno enforces it, except while the thread is in a C function or waits
 * for a child process; then a timer of the C library names the test on stderr and ends the process with status 1.
 */

import { runInThisContext } from "node:vm";

/** Milliseconds for a test, and for the load of a test file. The native tests in full have three minutes. */
const LIMIT_MS = Number(Deno.env.get("XENBLK_TEST_LIMIT_MS")) ||
  (Deno.env.get("XENBLK_NATIVE") === "full" ? 180_000 : 55_000);
/** Time for Deno to end a test itself. */
const GRACE_MS = Math.min(4000, LIMIT_MS);
/** Time between the message and the end of the process. */
const MESSAGE_MS = 200;

const SIGEV_THREAD = 2;
const CLOCK_MONOTONIC = 1;

const SYMBOLS = {
  timer_create: { parameters: ["i32", /* clockid */ "buffer", /* sevp */ "buffer" /* timerid */], result: "i32" },
  timer_settime: {
    parameters: ["u64", /* timerid */ "i32", /* flags */ "buffer", /* new_value */ "pointer" /* old_value */],
    result: "i32",
  },
  timer_delete: { parameters: ["u64" /* timerid */], result: "i32" },
  warnx: { type: "pointer" },
  _exit: { type: "pointer" },
} as const satisfies Deno.ForeignLibraryInterface;

function openLibc(): Deno.DynamicLibrary<typeof SYMBOLS> | undefined {
  try {
    return Deno.dlopen("libc.so.6", SYMBOLS);
  } catch {
    return undefined; // another C library, or a glibc before 2.34: Deno's own timeouts have to do
  }
}

const libc = openLibc();

/** timer_create(2): a timer that calls the C function `action(value)` in a thread of its own. */
class Timer {
  readonly #id: bigint;

  constructor(action: Deno.PointerValue, value: bigint) {
    const event = new BigUint64Array(8); // struct sigevent: value, signo and notify, function, attributes
    new DataView(event.buffer).setInt32(12, SIGEV_THREAD, true);
    event[0] = value;
    event[2] = Deno.UnsafePointer.value(action) as bigint;
    const id = new BigUint64Array(1);
    if (libc!.symbols.timer_create(CLOCK_MONOTONIC, event, id) !== 0) throw new Error("timer_create failed");
    this.#id = id[0]!;
  }

  /** Starts the timer anew; 0 stops it. */
  set(delayMs: number): void {
    const value = new BigInt64Array(4); // struct itimerspec: interval, then value, as seconds and nanoseconds
    value[2] = BigInt(Math.floor(delayMs / 1000));
    value[3] = BigInt(delayMs % 1000) * 1_000_000n;
    libc!.symbols.timer_settime(this.#id, 0, value, null);
  }

  delete(): void {
    libc!.symbols.timer_delete(this.#id);
  }
}

/** Ends the process with a message if it is not disarmed in time. */
class Watchdog {
  readonly #message = new Uint8Array(1024);
  readonly #warn: Timer;
  readonly #exit: Timer;

  constructor(symbols: NonNullable<typeof libc>["symbols"]) {
    this.#warn = new Timer(symbols.warnx, BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(this.#message))));
    this.#exit = new Timer(symbols._exit, 1n);
  }

  arm(message: string, limitMs: number): void {
    this.#message.fill(0);
    // The text is a format string for printf.
    new TextEncoder().encodeInto(message.replaceAll("%", "%%"), this.#message.subarray(0, -1));
    this.#warn.set(limitMs);
    this.#exit.set(limitMs + MESSAGE_MS);
  }

  disarm(): void {
    this.#warn.set(0);
    this.#exit.set(0);
  }

  delete(): void {
    this.#warn.delete();
    this.#exit.delete();
  }
}

const watchdog = libc === undefined ? undefined : new Watchdog(libc.symbols);
watchdog?.arm(`the test file ${Deno.mainModule} was not loaded within ${LIMIT_MS} ms`, LIMIT_MS);
Deno.test.beforeAll(() => watchdog?.disarm());
Deno.test.afterEach(() => watchdog?.disarm());
globalThis.addEventListener("unload", () => watchdog?.delete());

type Body = Deno.TestDefinition["fn"];

/** A test as it was registered, in any of the forms that Deno.test takes, with a deadline. */
function withDeadline(args: readonly unknown[]): Deno.TestDefinition {
  const fn = args.findLast((arg) => typeof arg === "function") as Body | undefined;
  const options = args.find((arg) => typeof arg === "object") as Partial<Deno.TestDefinition> | undefined;
  const name = args.find((arg) => typeof arg === "string") as string | undefined;
  const merged = { timeout: LIMIT_MS, ...options };
  const body = fn ?? options?.fn as Body;
  const title = name ?? options?.name ?? body.name;
  return {
    ...merged,
    name: title,
    fn: (context) => {
      const { timeout } = merged;
      watchdog?.arm(`${title}: blocked its thread for more than ${timeout} ms`, timeout + GRACE_MS);
      return body(context);
    },
  };
}

/**
 * Deno names a test by the place that calls Deno.test, and skips its own files there, whose names start with `ext:`.
 * With such a name the wrapper is skipped too, and a failed test is reported at its own line.
 */
const wrapped = runInThisContext("(register, prepare) => function test(...args) { register(prepare(args)); }", {
  filename: "ext:deadline",
})(Deno.test, withDeadline);
Object.defineProperty(Deno, "test", { value: Object.assign(wrapped, Deno.test) });

/**
 * Ends a program that has nothing left to do but to keep a test host that it forgot to dispose: the host's threads would
 * keep the process alive for ever, in silence.
 */

/** How often it is looked whether a host is used. */
const LOOK_MS = 250;

let mainModuleEnded = false;
// Before the main module has run to its end, it may be waiting for anything.
addEventListener("load", () => mainModuleEnded = true);

/** Whether this is `deno test` or `deno bench`, which end by themselves. */
function hasRunner(): boolean {
  try {
    return /\$deno\$(test|bench)/.test(Deno.mainModule);
  } catch {
    return false; // without the permission to read it nobody knows
  }
}

/** Uses of one host. */
export class HostUse implements Disposable {
  #lastMs = performance.now();
  #timer: ReturnType<typeof setInterval> | undefined;
  #calls = 0;

  /** `isBusy` says whether something is under way; the process ends after so long without a use. */
  constructor(isBusy: () => boolean, limitMs: number) {
    if (limitMs === Infinity || hasRunner()) return;
    this.#timer = setInterval(() => {
      if (this.#calls > 0 || isBusy() || !mainModuleEnded) this.used();
      else if (performance.now() - this.#lastMs >= limitMs) end(limitMs);
    }, Math.min(LOOK_MS, limitMs));
    Deno.unrefTimer(this.#timer);
  }

  /** It is used now. */
  used(): void {
    this.#lastMs = performance.now();
  }

  /** A call is under way until the result is disposed. */
  call(): Disposable {
    this.#calls++;
    return {
      [Symbol.dispose]: () => {
        this.#calls--;
        this.used();
      },
    };
  }

  /** The host is disposed. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

function end(limitMs: number): never {
  // deno-lint-ignore no-console -- the process ends
  console.error(
    `xenblk: the program has ended, but for a test host that nothing has used for ${limitMs / 1000} s: it ends now`,
  );
  // Whatever was forgotten is named at the exit.
  Deno.exit(1);
}

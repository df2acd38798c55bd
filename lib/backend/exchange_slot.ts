/**
 * One device's exchange of its image: asked for at any time, carried out when the device has looked at its nodes and has
 * nothing else to do.
 */

import type { Clock } from "../clock.ts";
import { isAbort } from "../abort.ts";
import { XenblkError } from "../errors.ts";
import { XenstoreError } from "../hypervisor.ts";
import type { Action, Outcome } from "../xenbus/transitions.ts";
import type { DeviceParts } from "./connect.ts";
import type { DeviceNodes, Observation } from "./device_nodes.ts";
import type { Exchanged, ExchangeRequest } from "./exchange.ts";
import type { NamedImage } from "./named_image.ts";

/** One that was asked for. */
interface Asked {
  readonly request: ExchangeRequest;
  readonly result: PromiseWithResolvers<Exchanged>;
}

/** Of one device, one at a time. */
export class ExchangeSlot {
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #poke: () => void;
  #asked: Asked | undefined;
  #busy = false;
  /** What the nodes must not name, and what they must name instead. */
  #doubt: { readonly not: NamedImage; readonly but: NamedImage } | undefined;

  /** `poke` makes the device look. The signal ends exchanges. */
  constructor(clock: Clock, signal: AbortSignal, poke: () => void) {
    this.#clock = clock;
    this.#signal = signal;
    this.#poke = poke;
  }

  /** One was asked for, and is not over. */
  get isBusy(): boolean {
    return this.#busy;
  }

  /** One was asked for, and the device has nothing to do that it must do first. */
  mayFollow({ kind }: Action): boolean {
    return this.#asked !== undefined && (kind === "none" || kind === "change-image");
  }

  /** Asks for an exchange. Rejects with {@linkcode XenblkError}; the guest is then served as before. */
  async ask(request: ExchangeRequest): Promise<Exchanged> {
    if (this.#busy) throw new XenblkError("Cannot swap the image of this disk: another swap of it has not ended");
    this.#busy = true;
    const result = Promise.withResolvers<Exchanged>();
    const asked = this.#asked = { request, result };
    const over = new AbortController();
    const ends = AbortSignal.any([over.signal, this.#signal]);
    void this.#clock.sleep(request.timeoutMs, ends).then(() => {
      if (over.signal.aborted || this.#asked !== asked) return;
      this.#asked = undefined;
      result.reject(
        this.#signal.aborted
          ? processEnds()
          : new XenblkError("Cannot swap the image of this disk: something else happens to it, or xenstored is away", {
            kind: "timeout",
            remedy: "look at it with `xenblk show`, and try it again",
          }),
      );
    });
    this.#poke();
    try {
      return await result.promise;
    } finally {
      over.abort();
      this.#busy = false;
    }
  }

  /** Carries out what was asked for. Never rejects: who asked is told. */
  async perform(device: DeviceParts, nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
    const { request, result } = this.#asked!;
    this.#asked = undefined;
    const doubt = (not: NamedImage, but: NamedImage): void => {
      this.#doubt = { not, but };
    };
    try {
      // It is loaded with the first exchange.
      const { exchangeImage } = await import("./exchange.ts");
      const context = { device, nodes, seen, clock: this.#clock, signal: this.#signal, doubt };
      result.resolve(await exchangeImage(request, context));
    } catch (error) {
      result.reject(reasonOf(error));
    }
    return "done";
  }

  /** After the loss of a connection in the very commit: the nodes must name what is served. Throws if xenstore fails. */
  settle(nodes: DeviceNodes): void {
    if (this.#doubt === undefined) return;
    const { not, but } = this.#doubt;
    nodes.renameImage(not, but);
    this.#doubt = undefined;
  }
}

/** What is no fault of the images, as an error with a remedy. */
function reasonOf(error: unknown): unknown {
  if (isAbort(error)) return processEnds();
  if (!(error instanceof XenstoreError)) return error;
  return new XenblkError(`Cannot swap the image of this disk: ${error.message}`, {
    cause: error,
    kind: "hypervisor",
    remedy: "check xenstored, and look at the disk with `xenblk show`",
  });
}

function processEnds(): XenblkError {
  return new XenblkError("Cannot swap the image of this disk: its process ends", {
    remedy: "try it again with the process that serves it next",
  });
}

/**
 * The last view that the main thread sent, and the wish for the next: however many clients ask, the main thread makes a
 * few views a second at most.
 */

import type { View } from "./view.ts";

/** A view is used again for so long. */
const FRESH_MS = 200;
/** How long the main thread may take. */
const ANSWER_MS = 5_000;

/** Views, on request. */
export class ViewCache {
  readonly #want: () => void;
  #view: View | undefined;
  #atMs = -Infinity;
  #asked: PromiseWithResolvers<View> | undefined;
  readonly #first: (() => void)[] = [];

  /** `want` asks the main thread for a view, which comes through {@linkcode accept}. */
  constructor(want: () => void) {
    this.#want = want;
  }

  /** A view at most 200 ms old. Rejects if the process serves nothing yet, or does not answer. */
  async fresh(): Promise<View> {
    if (this.#view !== undefined && performance.now() - this.#atMs < FRESH_MS) return this.#view;
    if (this.#asked === undefined) {
      this.#asked = Promise.withResolvers();
      this.#want();
    }
    const { promise } = this.#asked;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("The serving process is busy: try again")), ANSWER_MS);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Calls `act` once, with the first view; it need not be asked for. */
  whenFirst(act: () => void): void {
    this.#first.push(act);
  }

  /** Takes what the main thread sends. Undefined: the process serves nothing yet. */
  accept(view: View | undefined): void {
    const asked = this.#asked;
    this.#asked = undefined;
    if (view === undefined) return asked?.reject(new Error("No disk is served yet: try again"));
    this.#view = view;
    this.#atMs = performance.now();
    asked?.resolve(view);
    for (const act of this.#first.splice(0)) act();
  }
}

/** A text made of a view, once however many clients read it. */
export class Rendering {
  readonly #render: (view: View) => Promise<string>;
  #last: { readonly view: View; readonly bytes: Promise<Uint8Array> } | undefined;

  constructor(render: (view: View) => Promise<string>) {
    this.#render = render;
  }

  /** The text of a view, in UTF-8. */
  async of(view: View): Promise<Uint8Array> {
    if (this.#last?.view !== view) {
      this.#last = { view, bytes: this.#render(view).then((text) => new TextEncoder().encode(text)) };
    }
    return await this.#last.bytes;
  }
}

/**
 * Imports the modules that descriptors name: a platform's, a disk's, an executor's. This is the only place with a
 * computed import, so a program can bring such a module without a change to this project.
 */

import { errorText, XenblkError } from "./errors.ts";
import type { Platform, PlatformDescriptor, PlatformModule } from "./hypervisor.ts";
import { endsWithin } from "./within.ts";

/** A module that takes longer to load, by waiting for something at its top level, counts as missing. */
const LONGEST_IMPORT_MS = 10_000;

/** The modules that this thread has loaded, of one kind: each exports the function `name`. */
export class Modules<M extends object> {
  readonly #name: keyof M & string;
  readonly #timeoutMs: number;
  readonly #loaded = new Map<string, M>();

  constructor(name: keyof M & string, timeoutMs: number = LONGEST_IMPORT_MS) {
    this.#name = name;
    this.#timeoutMs = timeoutMs;
  }

  /** The module, or undefined if {@linkcode load} has not been called for it, or not succeeded yet. */
  get(module: string): M | undefined {
    return this.#loaded.get(module);
  }

  /**
   * Loads a module, once. Rejects with {@linkcode XenblkError} that names it if it cannot be imported, takes too long, or
   * exports no such function.
   */
  async load(module: string): Promise<M> {
    const known = this.#loaded.get(module);
    if (known !== undefined) return known;
    const exported = await importWithin(module, this.#timeoutMs);
    if (typeof exported[this.#name] !== "function") {
      throw cannotLoad(module, `it exports no function ${this.#name}`);
    }
    this.#loaded.set(module, exported as M);
    return exported as M;
  }
}

/**
 * Opens the platform that a descriptor names, in this thread; its libraries are opened only when they are first needed.
 * Rejects with {@linkcode XenblkError} if the module cannot be loaded, or with what its `openPlatform` throws.
 */
export async function openPlatform(descriptor: PlatformDescriptor): Promise<Platform> {
  const module = await new Modules<PlatformModule>("openPlatform").load(descriptor.module);
  return await module.openPlatform(descriptor);
}

/** Lets the thread's event loop go on, for at least so long: imports, timers and messages do so only there. */
export function eventLoopTurn(ms = 0): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function importWithin(module: string, timeoutMs: number): Promise<Record<string, unknown>> {
  if (!URL.canParse(module)) throw cannotLoad(String(module), "its name is not an absolute URL");
  const loading = import(module);
  try {
    if (await endsWithin(loading, timeoutMs)) return await loading;
  } catch (error) {
    throw cannotLoad(module, errorText(error), error);
  }
  throw cannotLoad(module, `it did not load within ${timeoutMs / 1000} s`);
}

function cannotLoad(module: string, why: string, cause?: unknown): XenblkError {
  return new XenblkError(`Cannot load module ${module}: ${why}`, cause === undefined ? {} : { cause });
}

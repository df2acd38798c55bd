/**
 * The C reference as a backend: reference.c, built when the bench runs, in one process per disk. It is the limit that the
 * product's figures are compared with.
 */

import { XenblkError } from "../lib/errors.ts";
import type { NativeXen } from "../tests/native/harness.ts";
import { compile, MISSING_COMPILER } from "./compile.ts";

const LIBRARIES = ["xenstore", "xengnttab", "xenevtchn"];

/** Builds the reference into a directory, and returns its path. Throws Error if it cannot be built. */
export async function buildReference(directory: string): Promise<string> {
  const program = await compile("reference.c", directory, LIBRARIES);
  if (program === undefined) throw new XenblkError(`Cannot build the C reference: ${MISSING_COMPILER}`);
  return program;
}

/** What a {@linkcode ReferenceProcess} serves. */
export interface ReferenceDisk {
  /** The backend's directory in xenstore, with the nodes of the toolstack. */
  readonly directory: string;
  readonly image: string;
  /** Open the image with O_DIRECT. */
  readonly direct: boolean;
}

/** A running reference with its one disk. It ends when the frontend closes. */
export class ReferenceProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #errors: Promise<string>;
  #ended = false;

  constructor(xen: NativeXen, program: string, { directory, image, direct }: ReferenceDisk) {
    this.#child = new Deno.Command(program, {
      args: [directory, image, direct ? "direct" : "cached"],
      env: xen.env(0),
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#errors = new Response(this.#child.stderr).text();
    void this.#child.status.then(() => this.#ended = true);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Its exit status, and what it wrote to standard error. */
  async ended(): Promise<{ readonly code: number; readonly messages: string }> {
    const { code } = await this.#child.status;
    return { code, messages: (await this.#errors).trim() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) this.#child.kill("SIGKILL");
    await this.ended();
  }
}

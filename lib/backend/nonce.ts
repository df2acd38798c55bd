/**
 * Nonces: random numbers by which what outlives a process is known again, each in a node of the backend's directory and
 * in the memory that it vouches for. Pure but for the random numbers; what they are for is not known here.
 */

import type { Nonce } from "../dataplane/journal.ts";

const NONCE_WORDS = 4;
const NONCE_TEXT = /^[0-9a-f]{32}$/;

/** One that nothing has yet. */
export function newNonce(): Nonce {
  return crypto.getRandomValues(new Uint32Array(NONCE_WORDS));
}

/** A node's value for it. */
export function nonceText(nonce: Nonce): string {
  return Array.from(nonce, (word) => word.toString(16).padStart(8, "0")).join("");
}

/** What a node says; undefined if it is not there or says nothing of use. */
export function parseNonce(node: string | undefined): Nonce | undefined {
  if (node === undefined || !NONCE_TEXT.test(node)) return undefined;
  return Uint32Array.from({ length: NONCE_WORDS }, (_, i) => parseInt(node.slice(8 * i, 8 * i + 8), 16));
}

/**
 * Nonces: random numbers that tie what outlives a process (journals, latches) to one connection or one attachment. Each
 * stands in a node of the backend's directory and in the memory that belongs to it.
 */

/** Four random 32-bit words. */
export type Nonce = Uint32Array;

/** Words of a nonce. */
export const NONCE_WORDS = 4;

const NONCE_TEXT = /^[0-9a-f]{32}$/;

/** A new nonce, from the system's random numbers. */
export function newNonce(): Nonce {
  return crypto.getRandomValues(new Uint32Array(NONCE_WORDS));
}

/** The value of a node that holds the nonce: 32 hexadecimal digits. */
export function nonceText(nonce: Nonce): string {
  return Array.from(nonce, (word) => word.toString(16).padStart(8, "0")).join("");
}

/** The nonce in a node; undefined if the node is missing or holds something else. */
export function parseNonce(node: string | undefined): Nonce | undefined {
  if (node === undefined || !NONCE_TEXT.test(node)) return undefined;
  return Uint32Array.from({ length: NONCE_WORDS }, (_, i) => parseInt(node.slice(8 * i, 8 * i + 8), 16));
}

/** A nonce that differs if the first one or any of the numbers does. */
export function derivedNonce(nonce: Nonce, numbers: readonly number[]): Nonce {
  return nonce.map((word, i) => {
    let hash = word ^ i;
    for (const number of [numbers.length, ...numbers]) {
      hash = Math.imul(hash ^ number, 0x01000193);
      hash ^= hash >>> 15;
    }
    return hash;
  });
}

/** Writes the nonce into shared memory, from word `first` on. */
export function storeNonce(words: Int32Array, first: number, nonce: Nonce): void {
  for (let i = 0; i < NONCE_WORDS; i++) words[first + i] = nonce[i]!;
}

/** Whether shared memory holds the nonce, from word `first` on. */
export function holdsNonce(words: Int32Array, first: number, nonce: Nonce): boolean {
  for (let i = 0; i < NONCE_WORDS; i++) if (words[first + i]! >>> 0 !== nonce[i]!) return false;
  return true;
}

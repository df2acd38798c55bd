/**
 * Commands to a plugin's process, and its answers: JSON in the shared memory, one at a time. Both processes import this;
 * neither believes what the other wrote.
 */

import { ANSWER_AT, ASK_AT, HEADER_WORDS, MOST_ANSWER_BYTES, MOST_ASK_BYTES, WORD } from "./layout.ts";

/** A command. `open` is there when the process starts; `size` may make the disk so large before. */
export type Command =
  | { readonly do: "open" }
  | { readonly do: "size"; readonly sizeBytes?: number }
  | { readonly do: "close" };

/** One process's end. */
export class Mailbox {
  readonly #words: Int32Array;
  readonly #ask: Uint8Array;
  readonly #answer: Uint8Array;

  /** `buffer` begins with the process's part of the shared memory. */
  constructor(buffer: ArrayBufferLike) {
    this.#words = new Int32Array(buffer, 0, HEADER_WORDS);
    this.#ask = new Uint8Array(buffer, ASK_AT, MOST_ASK_BYTES);
    this.#answer = new Uint8Array(buffer, ANSWER_AT, MOST_ANSWER_BYTES);
  }

  /** Puts a command. The answer to another one must have been taken. */
  ask(command: Command): void {
    Atomics.store(this.#words, WORD.askBytes, put(this.#ask, command));
    Atomics.add(this.#words, WORD.asked, 1);
  }

  /** Whether the last command was answered. */
  get isAnswered(): boolean {
    return Atomics.load(this.#words, WORD.asked) === Atomics.load(this.#words, WORD.answered);
  }

  /** The command that is not answered yet. */
  get command(): Command {
    return take(this.#ask, Atomics.load(this.#words, WORD.askBytes)) as Command;
  }

  /** Answers the command. */
  reply(answer: unknown): void {
    Atomics.store(this.#words, WORD.answerBytes, put(this.#answer, answer));
    Atomics.store(this.#words, WORD.answered, Atomics.load(this.#words, WORD.asked));
  }

  /** The answer to the last command. Throws an Error if it is no JSON. */
  get answer(): unknown {
    return take(this.#answer, Atomics.load(this.#words, WORD.answerBytes));
  }
}

function put(place: Uint8Array, value: unknown): number {
  const bytes = new TextEncoder().encode(JSON.stringify(value, withBigInts));
  if (bytes.length > place.length) {
    throw new RangeError(`Cannot send ${bytes.length} bytes to a plugin, or to its disk`);
  }
  place.set(bytes);
  return bytes.length;
}

/** JSON has none; the reader says what it wants in their place. */
function withBigInts(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? `${value}n` : value;
}

/** The bytes are copied first: the other process can change them at any time. */
function take(place: Uint8Array, lengthBytes: number): unknown {
  if (!(lengthBytes >= 0 && lengthBytes <= place.length)) throw new RangeError(`Cannot read ${lengthBytes} bytes`);
  return JSON.parse(new TextDecoder().decode(place.slice(0, lengthBytes)));
}

/**
 * A queue of tags in fixed memory, for filters that make operations wait.
 */

/** Tags in line, each at most once. */
export class TagLine {
  readonly #tags: Uint32Array;
  #head = 0;
  /** Tags in line. */
  count = 0;

  /** `depth`: most tags in line. */
  constructor(depth: number) {
    this.#tags = new Uint32Array(depth);
  }

  /** The first in line; -1 if there is none. */
  get first(): number {
    return this.count === 0 ? -1 : this.#tags[this.#head]!;
  }

  /** Puts a tag at the end of the line. */
  add(tag: number): void {
    this.#tags[(this.#head + this.count++) % this.#tags.length] = tag;
  }

  /** Takes the first out of the line; -1 if there is none. */
  shift(): number {
    const { first } = this;
    if (first < 0) return first;
    this.#head = (this.#head + 1) % this.#tags.length;
    this.count--;
    return first;
  }
}

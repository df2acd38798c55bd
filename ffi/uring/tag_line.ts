/**
 * Operations that must not be under way at the same time: they wait in line, and the next one starts when the one
 * before it is over. All memory is made at once. It must not know what the operations are.
 */

/** A line of tags, each in it at most once. */
export class TagLine {
  readonly #tags: Uint32Array;
  #head = 0;
  #count = 0;
  #underWay = false;

  /** For tags below `depth`. */
  constructor(depth: number) {
    this.#tags = new Uint32Array(depth);
  }

  /** It waits for its turn. */
  add(tag: number): void {
    this.#tags[(this.#head + this.#count++) % this.#tags.length] = tag;
  }

  /** Whose turn it is, and it is under way from now on; or -1: nobody waits, or another is under way. */
  next(): number {
    if (this.#underWay || this.#count === 0) return -1;
    const tag = this.#tags[this.#head]!;
    this.#head = (this.#head + 1) % this.#tags.length;
    this.#count--;
    this.#underWay = true;
    return tag;
  }

  /** The one that was under way is over. */
  over(): void {
    this.#underWay = false;
  }
}

/**
 * A set of small numbers in memory of its own, such as the rings of a reactor that have something to do. To add, to delete
 * and to find the next one takes the same time however many numbers there could be, and allocates nothing.
 */

/** Numbers of a word, and words of a group: bits of an Int32Array's element. */
const BITS = 32;

/** Numbers from 0 on, below a size. */
export class IndexSet {
  #size = 0;
  /** A bit for each number. */
  #words = new Int32Array(1);
  /** A bit for each word that is not 0. */
  #groups = new Int32Array(1);

  /** Makes the set empty, and gives it room for numbers below `size`. */
  reset(size: number): void {
    this.#size = size;
    const words = Math.ceil(size / BITS);
    if (words > this.#words.length) {
      this.#groups = new Int32Array(2 * Math.ceil(words / BITS));
      this.#words = new Int32Array(BITS * this.#groups.length);
    } else {
      this.#words.fill(0);
      this.#groups.fill(0);
    }
  }

  /** `index` is below the size. */
  add(index: number): void {
    this.#words[index >>> 5]! |= 1 << (index & 31);
    this.#groups[index >>> 10]! |= 1 << ((index >>> 5) & 31);
  }

  /** Likewise; no error if it is not there. */
  delete(index: number): void {
    const word = index >>> 5;
    this.#words[word]! &= ~(1 << (index & 31));
    if (this.#words[word] === 0) this.#groups[word >>> 5]! &= ~(1 << (word & 31));
  }

  /** The smallest number in it that is `index` or larger; the size if there is none. */
  from(index: number): number {
    if (index >= this.#size) return this.#size;
    const word = index >>> 5;
    const rest = this.#words[word]! & (-1 << (index & 31));
    return rest === 0 ? this.#fromWord(word + 1) : word * BITS + lowest(rest);
  }

  #fromWord(word: number): number {
    let mask = -1 << (word & 31);
    for (let group = word >>> 5; group < this.#groups.length; group++) {
      const rest = this.#groups[group]! & mask;
      mask = -1;
      if (rest === 0) continue;
      const found = group * BITS + lowest(rest);
      return found * BITS + lowest(this.#words[found]!);
    }
    return this.#size;
  }
}

/** The number of the lowest bit that is set. */
function lowest(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

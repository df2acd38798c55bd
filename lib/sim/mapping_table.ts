/**
 * The grants that one handle has mapped, found by address and count, which is how an unmap call names a mapping. A hash
 * table of linked nodes in typed arrays, one node per page, so that mapping allocates nothing once the table has grown.
 */

const BUCKETS = 1024;
const NONE = -1;

/** Live mappings by their first address and page count. */
export class MappingTable {
  readonly #heads = new Int32Array(BUCKETS).fill(NONE);
  /** By first node of a mapping: the next mapping in its bucket. */
  #nextMapping = new Int32Array(0);
  /** By node: the next page of the same mapping, or the next free node. */
  #nextPage = new Int32Array(0);
  #refs = new Uint32Array(0);
  #counts = new Uint32Array(0);
  #addresses = new Float64Array(0);
  #free = NONE;
  #pages = 0;

  /** Pages of all mappings. */
  get pages(): number {
    return this.#pages;
  }

  /** Adds the mapping of `refs[first]` to `refs[first + count - 1]` at `address`. */
  add(address: number, refs: Uint32Array, first: number, count: number): void {
    let next = NONE;
    for (let i = first + count - 1; i >= first; i--) {
      const node = this.#takeNode();
      this.#refs[node] = refs[i]!;
      this.#nextPage[node] = next;
      next = node;
    }
    const bucket = bucketOf(address);
    this.#addresses[next] = address;
    this.#counts[next] = count;
    this.#nextMapping[next] = this.#heads[bucket]!;
    this.#heads[bucket] = next;
    this.#pages += count;
  }

  /** Removes one mapping with this address and count, and calls `release` for its references. False: there is none. */
  remove(address: number, count: number, release: (ref: number) => void): boolean {
    const bucket = bucketOf(address);
    let before = NONE;
    for (let node = this.#heads[bucket]!; node !== NONE; before = node, node = this.#nextMapping[node]!) {
      if (this.#addresses[node] !== address || this.#counts[node] !== count) continue;
      if (before === NONE) this.#heads[bucket] = this.#nextMapping[node]!;
      else this.#nextMapping[before] = this.#nextMapping[node]!;
      this.#releaseNodes(node, release);
      return true;
    }
    return false;
  }

  /** Removes all mappings. */
  removeAll(release: (ref: number) => void): void {
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      let node = this.#heads[bucket]!;
      this.#heads[bucket] = NONE;
      while (node !== NONE) {
        const next = this.#nextMapping[node]!;
        this.#releaseNodes(node, release);
        node = next;
      }
    }
  }

  #releaseNodes(first: number, release: (ref: number) => void): void {
    for (let node = first; node !== NONE;) {
      const next = this.#nextPage[node]!;
      release(this.#refs[node]!);
      this.#nextPage[node] = this.#free;
      this.#free = node;
      this.#pages--;
      node = next;
    }
  }

  #takeNode(): number {
    if (this.#free === NONE) this.#grow();
    const node = this.#free;
    this.#free = this.#nextPage[node]!;
    return node;
  }

  #grow(): void {
    const before = this.#refs.length;
    const after = Math.max(256, before * 2);
    this.#nextMapping = grown(this.#nextMapping, new Int32Array(after));
    this.#nextPage = grown(this.#nextPage, new Int32Array(after));
    this.#refs = grown(this.#refs, new Uint32Array(after));
    this.#counts = grown(this.#counts, new Uint32Array(after));
    this.#addresses = grown(this.#addresses, new Float64Array(after));
    for (let node = after - 1; node >= before; node--) {
      this.#nextPage[node] = this.#free;
      this.#free = node;
    }
  }
}

function grown<T extends Int32Array | Uint32Array | Float64Array>(from: T, to: T): T {
  to.set(from);
  return to;
}

/** Addresses are page-aligned: the page number spreads them. */
function bucketOf(address: number): number {
  return (address / 4096) % BUCKETS;
}

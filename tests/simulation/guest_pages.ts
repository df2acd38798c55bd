/**
 * The pages that a guest grants for its data, each with a shadow copy of what it must hold, so that a wrongly changed
 * byte is found.
 */

import { PAGE_BYTES, SECTOR_BYTES } from "../../lib/units.ts";
import { type DomId, type GrantRef, type GrantShares, type SharedPages } from "../../lib/hypervisor.ts";
import { describeSector, fillSector } from "./content.ts";
import type { Run } from "./run.ts";

const SECTOR_WORDS = SECTOR_BYTES / 4;
const PAGE_WORDS = PAGE_BYTES / 4;

/** A page that the guest granted. */
export interface GuestPage {
  readonly ref: GrantRef;
  /** The backend may write it. */
  readonly writable: boolean;
  readonly words: Int32Array;
  readonly shadow: Int32Array;
  inUse: boolean;
}

/** Number of pages of each kind. */
interface PageCounts {
  readonly writable: number;
  readonly readOnly: number;
}

/** A guest's data pages. Disposing revokes the grants. */
export class GuestPages implements Disposable {
  readonly pages: readonly GuestPage[];
  /** Granted to another domain. */
  readonly foreignRef: GrantRef;
  readonly #run: Run;
  readonly #shared: readonly SharedPages[];

  constructor(shares: GrantShares, backend: DomId, stranger: DomId, counts: PageCounts, run: Run) {
    this.#run = run;
    const foreign = shares.share(stranger, 1, true);
    this.foreignRef = foreign.refs[0]!;
    const groups = [shares.share(backend, counts.writable, true), shares.share(backend, counts.readOnly, false)];
    this.#shared = [...groups, foreign];
    this.pages = groups.flatMap((group, n) => group.refs.map((ref, i) => pageOf(group, ref, i, n === 0)));
    for (const page of this.pages) {
      for (let at = 0; at < PAGE_WORDS; at++) page.words[at] = Math.imul(at + page.ref, 0x9E3779B1);
      page.shadow.set(page.words);
    }
  }

  /** An unused page, or undefined. The caller marks it as in use. */
  free(writable: boolean, start: number): GuestPage | undefined {
    const count = this.pages.length;
    for (let i = 0; i < count; i++) {
      const page = this.pages[(start + i) % count]!;
      if (!page.inUse && (page.writable || !writable)) return page;
    }
    return undefined;
  }

  /** Fills a sector of the page with the data that write `id` has for a sector of the disk. */
  fill(page: GuestPage, pageSector: number, sector: number, id: number): void {
    fillSector(page.words, pageSector * SECTOR_WORDS, sector, id);
    fillSector(page.shadow, pageSector * SECTOR_WORDS, sector, id);
  }

  /** Accepts what a sector of the page holds now. */
  accept(page: GuestPage, pageSector: number): void {
    const at = pageSector * SECTOR_WORDS;
    for (let i = at; i < at + SECTOR_WORDS; i++) page.shadow[i] = page.words[i]!;
  }

  /** Fails if the page differs from its shadow. */
  check(page: GuestPage): void {
    for (let at = 0; at < PAGE_WORDS; at++) {
      if (page.words[at] === page.shadow[at]) continue;
      const sector = Math.floor(at / SECTOR_WORDS);
      const holds = describeSector(page.words, sector * SECTOR_WORDS);
      this.#run.fail(`sector ${sector} of the page with grant ${page.ref} was changed: it holds ${holds}`);
    }
  }

  /** {@linkcode check} for all unused pages. */
  checkUnused(): void {
    for (const page of this.pages) if (!page.inUse) this.check(page);
  }

  [Symbol.dispose](): void {
    for (const pages of this.#shared) pages[Symbol.dispose]();
  }
}

function pageOf(group: SharedPages, ref: GrantRef, index: number, writable: boolean): GuestPage {
  const { buffer, byteOffset } = group.view;
  const words = new Int32Array(buffer, byteOffset + index * PAGE_BYTES, PAGE_WORDS);
  return { ref, writable, words, shadow: new Int32Array(PAGE_WORDS), inUse: false };
}

/**
 * The filters of one device: read from the settings when its first disk is opened, and kept as long as the device, so
 * that their options and what they hold stay when the guest connects again.
 */

import type { Disk } from "../storage/disk.ts";
import { chooseFilters, type FilterChoice } from "../storage/filter/spec.ts";
import type { FilterPlace } from "../storage/filter/filter.ts";
import { FilterStack, type LiveFilter } from "../storage/filter/stack.ts";

/** Puts the filters in front of the disks that a device opens, one at a time. */
export class DeviceFilters {
  readonly #choices: readonly FilterChoice[];
  readonly #place: FilterPlace;
  readonly #holds: Set<AsyncDisposable> | undefined;
  #stack: FilterStack | undefined;

  /** `choices`: the first is nearest to the guest. `holds` gets what they hold open, while they do. */
  constructor(choices: readonly FilterChoice[], place: FilterPlace, holds?: Set<AsyncDisposable>) {
    this.#choices = choices;
    this.#place = place;
    this.#holds = holds;
  }

  /**
   * Opens a disk behind the filters. `key` names the image; `readOnly`: the guest must not write. Rejects with what
   * `openDisk` rejects with, and with {@linkcode XenblkError} for a filter that is wrong.
   */
  async open(key: string, readOnly: boolean, openDisk: (readOnly: boolean) => Promise<Disk>): Promise<Disk> {
    const stack = this.#stack ??= new FilterStack(await chooseFilters(this.#choices));
    if (stack.filters.length === 0) return await openDisk(readOnly);
    await using undo = new AsyncDisposableStack();
    const disk = undo.use(await openDisk(readOnly || stack.readsOnly));
    const hold = undo.use(this.#noted(await stack.open(disk.properties, this.#place)));
    const filtered = stack.wrap(disk, { key, readOnly, hold });
    undo.move();
    return filtered;
  }

  #noted(hold: AsyncDisposable): AsyncDisposable {
    const noted = {
      [Symbol.asyncDispose]: async (): Promise<void> => {
        this.#holds?.delete(noted);
        await hold[Symbol.asyncDispose]();
      },
    };
    this.#holds?.add(noted);
    return noted;
  }

  /** See FilterStack. */
  get tied(): string | undefined {
    return this.#stack?.tied;
  }

  /** See FilterStack. */
  end(): void {
    this.#stack?.end();
  }

  /** See FilterStack. A process without the filters of the one before has lost what they held, too. */
  takeOver(): string | undefined {
    const stack = this.#stack;
    if (stack?.readsOnly === true) return stack.takeOver();
    return "the process that kept its writes in memory has ended, and this one has no such filter";
  }

  /** From the guest to the disk; none before a disk was opened. */
  get filters(): readonly LiveFilter[] {
    return this.#stack?.filters ?? [];
  }
}

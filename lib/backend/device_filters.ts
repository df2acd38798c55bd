/**
 * The filters of one device: read from the settings when its first disk is opened, and kept as long as the device, so
 * that their options and what they hold stay when the guest connects again.
 */

import type { Disk } from "../storage/disk.ts";
import { XenblkError } from "../errors.ts";
import { DiskLimits, limitsAny, limitsIn, readLimits } from "../storage/filter/limits.ts";
import { changedValues, chooseFilters, type ChosenFilter, type FilterChoice } from "../storage/filter/spec.ts";
import type { FilterPlace } from "../storage/filter/filter.ts";
import { FilterStack, type LiveFilter } from "../storage/filter/stack.ts";
import type { ThrottleOptions } from "../storage/filter/table.ts";
import type { DeviceSettings } from "./settings.ts";

/** The filter with limits; where a disk has it among its own, its limits are there. */
const THROTTLE = "throttle";

/** Puts the filters in front of the disks that a device opens, one at a time. */
export class DeviceFilters {
  readonly #choices: readonly FilterChoice[];
  readonly #place: FilterPlace;
  readonly #holds: Set<AsyncDisposable> | undefined;
  readonly #wanted: ThrottleOptions;
  /** In front of all filters; without limits if one of them is to have them. */
  readonly #own: DiskLimits;
  #stack: FilterStack | undefined;

  /**
   * `filters`: the first is nearest to the guest. `limits`: of the disk; if a filter `throttle` is among the filters, it
   * gets them. `holds` gets what filters hold open, while they do. Throws {@linkcode XenblkError} for a wrong limit.
   */
  constructor(
    { filters, limits = {} }: Pick<DeviceSettings, "filters" | "limits">,
    place: FilterPlace,
    holds?: Set<AsyncDisposable>,
  ) {
    this.#choices = filters;
    this.#wanted = limits;
    this.#own = new DiskLimits(filters.some(isThrottle) ? {} : limits);
    this.#place = place;
    this.#holds = holds;
  }

  /** Of the disk itself, in front of all filters. */
  get memory(): DiskLimits["memory"] {
    return this.#own.memory;
  }

  /** What has the limits of the disk: its first filter `throttle`, else a place in front of all filters. */
  get limits(): LiveFilter<ThrottleOptions> {
    if (!this.#choices.some(isThrottle)) return this.#own;
    return this.#stack?.filter(THROTTLE) ?? this.#notYet();
  }

  /** Which filter has the limits, for people; undefined: none. */
  get limitedBy(): string | undefined {
    const count = this.#choices.filter(isThrottle).length;
    if (count === 0) return undefined;
    return count === 1 ? "filter throttle" : `the first of ${count} filters throttle`;
  }

  /**
   * Opens a disk behind the filters. `key` names the image; `readOnly`: the guest must not write. Rejects with what
   * `openDisk` rejects with, and with {@linkcode XenblkError} for a filter that is wrong.
   */
  async open(key: string, readOnly: boolean, openDisk: (readOnly: boolean) => Promise<Disk>): Promise<Disk> {
    const stack = this.#stack ??= new FilterStack(limited(await chooseFilters(this.#choices), this.#wanted));
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
    this.#own.end();
  }

  /** Requests may wait here, so that the device cannot be closed. */
  get mayHold(): boolean {
    return this.filters.length > 0 || limitsAny(limitsIn(this.#own.options));
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

  /** Stands in until the filters are there; for ever if one of them is wrong. */
  #notYet(): LiveFilter<ThrottleOptions> {
    return {
      name: THROTTLE,
      options: { ...readLimits({ ...this.#wanted }) },
      set: () => {
        throw new XenblkError("Cannot set limits: the disk's filter throttle has them, and its filters are not ready", {
          remedy: "try again; if its filters are wrong, `xenblk show` says why",
        });
      },
    };
  }
}

function isThrottle(choice: FilterChoice): boolean {
  return (typeof choice === "string" ? choice.split(",")[0] : choice.name) === THROTTLE;
}

/** The same, the first filter `throttle` with these limits. */
function limited(chosen: readonly ChosenFilter[], limits: ThrottleOptions): readonly ChosenFilter[] {
  const first = chosen.find(({ name }) => name === THROTTLE);
  return chosen.map((each) =>
    each === first ? { ...each, values: changedValues(each, each.values, { ...limits }) } : each
  );
}

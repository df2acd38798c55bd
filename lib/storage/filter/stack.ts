/**
 * The filters of one device, stacked in front of its disk: the first one is nearest to the guest. The stack outlives the
 * disk, so what was changed while the disk was served stays when the guest connects again.
 */

import type { LockableImage, Refusal } from "../../hypervisor.ts";
import { XenblkError } from "../../errors.ts";
import type {
  ChainDaemon,
  Disk,
  DiskAttachment,
  DiskFile,
  DiskProperties,
  MemoryRule,
  VolatileContent,
} from "../disk.ts";
import type { FilterAttachment, FilterPlace, FilterValue, FilterValues } from "./filter.ts";
import { createLive, writeLive } from "./live.ts";
import { changedValues, type ChosenFilter, liveOptions } from "./spec.ts";
import type { FilterName, FilterOptions } from "./table.ts";

/** A filter in front of a disk that is served. `O` are its options. */
export interface LiveFilter<O = Readonly<Record<string, FilterValue>>> {
  /** As it was named. */
  readonly name: string;
  /** All options, with their present values. */
  readonly options: FilterValues;
  /**
   * Changes options; those that are not named stay. All rings of the disk follow at their next pass. Throws {@linkcode
   * XenblkError} (usage) for a value that is not allowed and for an option that cannot change; then nothing changes.
   */
  set(options: Partial<O>): void;
}

/** One filter of a stack: its live options, and what its channels share. */
class StackedFilter implements LiveFilter {
  readonly chosen: ChosenFilter;
  readonly #live: SharedArrayBuffer;
  #values: FilterValues;
  #sectors = 0;
  #state: { readonly key: string; readonly state: unknown; used: boolean; lost: boolean } | undefined;
  /** The state of what it has opened, in place of the other one. */
  #openedState: unknown;

  constructor(chosen: ChosenFilter) {
    this.chosen = chosen;
    this.#values = chosen.values;
    this.#live = createLive(this.#numbers());
  }

  get name(): string {
    return this.chosen.name;
  }

  get options(): FilterValues {
    return this.#values;
  }

  set(options: Readonly<Record<string, FilterValue | undefined>>): void {
    this.#values = changedValues(this.chosen, this.#values, options);
    writeLive(this.#live, this.#numbers());
  }

  /** What its channels share, made anew for each image. */
  prepare(key: string, disk: DiskProperties): void {
    this.resized(disk);
    if (this.#state?.key === key) return;
    const state = this.chosen.definition.createState?.(disk, this.#values);
    this.#state = { key, state, used: false, lost: false };
  }

  /** Tells the channels the size of the disk behind the filter. */
  resized({ sectors }: DiskProperties): void {
    this.#sectors = sectors;
    writeLive(this.#live, this.#numbers());
  }

  attachment(inner: DiskAttachment): FilterAttachment {
    const { module } = this.chosen;
    const { state, lost = false } = this.#state ?? {};
    if (this.#state !== undefined) this.#state.used = true;
    return { module, inner, options: this.#values, live: this.#live, state: this.#openedState ?? state, lost };
  }

  /** What it keeps of the guest's writes is another process's, and gone. */
  isLost(): boolean {
    if (this.#state === undefined || this.chosen.definition.keepsWrites !== true) return false;
    return this.#state.lost ||= !this.#state.used;
  }

  /** Opens what the filter holds while a disk is open; undefined: it holds nothing. */
  async open(disk: DiskProperties, place: FilterPlace): Promise<AsyncDisposable | undefined> {
    const hold = await this.chosen.definition.open?.(disk, this.#values, place);
    this.#openedState = hold?.state;
    return hold;
  }

  propertiesOf(disk: DiskProperties): DiskProperties {
    return this.chosen.definition.properties?.(disk, this.#values) ?? disk;
  }

  #numbers(): number[] {
    return [...liveOptions(this.chosen.definition).map(([key, { live }]) => live!(this.#values[key]!)), this.#sectors];
  }
}

/** How a disk is put behind filters. */
interface WrapOptions {
  readonly key: string;
  readonly readOnly: boolean;
  readonly hold?: AsyncDisposable;
}

/** The filters of one device. */
export class FilterStack {
  readonly #filters: readonly StackedFilter[];

  /** `filters`: the first one is nearest to the guest. */
  constructor(filters: readonly ChosenFilter[]) {
    this.#filters = filters.map((chosen) => new StackedFilter(chosen));
  }

  /** Whether a filter keeps writes from the image, so that it is opened for reading. */
  get readsOnly(): boolean {
    return this.#filters.some(({ chosen }) => chosen.definition.readsOnly === true);
  }

  /** The first filter that keeps the image's content, or something of its own, open with it: it stays with this image. */
  get tied(): string | undefined {
    return this.#filters.find(({ chosen: { definition: { readsOnly, keepsWrites, open } } }) =>
      readsOnly === true || keepsWrites === true || open !== undefined
    )?.name;
  }

  /**
   * The disk behind the filters, which then belongs to the result. `key` names the image: what filters keep of it lasts
   * as long as the same is given. `readOnly`: the guest must not write, whatever the filters allow. `hold`: of {@linkcode
   * open}, then belongs to the result, too. Throws {@linkcode XenblkError} if a filter cannot stand in front of it.
   */
  wrap(disk: Disk, { key, readOnly, hold }: WrapOptions): Disk {
    if (this.#filters.length === 0) return disk;
    eachFrom(disk, this.#filters, (filter, below) => prepare(filter, key, below));
    const owned = hold === undefined ? {} : { hold };
    return new FilteredDisk(disk, this.#filters, { readsOnly: this.readsOnly, readOnly, ...owned });
  }

  /** Opens what the filters hold while this disk is open. Rejects with the reason why one cannot. */
  async open(disk: DiskProperties, place: FilterPlace): Promise<AsyncDisposable> {
    await using undo = new AsyncDisposableStack();
    let below = disk;
    for (const filter of this.#filters.toReversed()) {
      undo.use(await filter.open(below, place));
      below = filter.propertiesOf(below);
    }
    return undo.move();
  }

  /** The filter of that name that is nearest to the guest; undefined: there is none. */
  filter<N extends FilterName>(name: N): LiveFilter<FilterOptions[N]> | undefined;
  filter(name: string): LiveFilter | undefined;
  filter(name: string): LiveFilter | undefined {
    return this.#filters.find((filter) => filter.name === name);
  }

  /** All filters, from the guest to the disk. */
  get filters(): readonly LiveFilter[] {
    return this.#filters;
  }

  /** The device comes to its end: no filter holds anything any more. */
  end(): void {
    for (const filter of this.#filters) filter.set(filter.chosen.definition.atEnd ?? {});
  }

  /**
   * A guest that an earlier process served goes on with the disk. Returns what filters held of its writes and is lost, as
   * the end of a sentence; all operations then fail. Undefined: nothing is.
   */
  takeOver(): string | undefined {
    const lost = this.#filters.filter((filter) => filter.isLost());
    return lost.length === 0
      ? undefined
      : `the process that kept its writes in memory (filter ${lost.map(({ name }) => name).join(", ")}) has ended`;
  }
}

/**
 * The disk behind these filters, the first one nearest to the guest; it then belongs to the result. Throws {@linkcode
 * XenblkError} (usage) for a filter that opens more than memory, such as `log`: only a device can have it.
 */
export function filterDisk(disk: Disk, filters: readonly ChosenFilter[]): Disk {
  const opening = filters.find(({ definition }) => definition.open !== undefined);
  if (opening !== undefined) {
    throw new XenblkError(`Cannot put filter ${opening.name} before ${disk.description}: it belongs to a device`, {
      kind: "usage",
      remedy: "name it among the filters when the disk is attached",
    });
  }
  return new FilterStack(filters).wrap(disk, { key: "", readOnly: false });
}

/** From the disk to the guest, each filter with the properties of what is behind it. Returns those for the guest. */
function eachFrom(
  disk: Disk,
  filters: readonly StackedFilter[],
  visit: (filter: StackedFilter, below: DiskProperties) => void = () => {},
): DiskProperties {
  return filters.reduceRight((below, filter) => {
    visit(filter, below);
    return filter.propertiesOf(below);
  }, disk.properties);
}

function prepare(filter: StackedFilter, key: string, disk: DiskProperties): void {
  try {
    filter.prepare(key, disk);
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    throw new XenblkError(`Cannot put filter ${filter.name} before the disk: there is not enough memory`, {
      cause: error,
      remedy: "give it a smaller size",
    });
  }
}

/** A disk behind filters. What filters do not change is the disk's own. */
class FilteredDisk implements Disk {
  readonly image?: LockableImage;
  readonly imageReadOnly?: boolean;
  readonly failed?: Promise<string>;
  readonly volatile?: VolatileContent;
  readonly files?: readonly DiskFile[];
  readonly grow?: (sizeBytes?: number) => Promise<void>;
  readonly watchTrouble?: (listener: () => void) => Disposable;
  readonly reattach?: (attachment: DiskAttachment, lane: number) => DiskAttachment | undefined;
  readonly waitsFor?: (rule: MemoryRule) => string | undefined;
  readonly withoutUring?: (lane: number, refusal: Refusal) => Promise<DiskAttachment>;
  readonly #disk: Disk;
  readonly #filters: readonly StackedFilter[];
  readonly #readOnly: boolean;
  readonly #hold: AsyncDisposable | undefined;

  constructor(
    disk: Disk,
    filters: readonly StackedFilter[],
    { readsOnly, readOnly, hold }: Omit<WrapOptions, "key"> & { readonly readsOnly: boolean },
  ) {
    this.#hold = hold;
    this.#disk = disk;
    this.#filters = filters;
    this.#readOnly = readOnly;
    const { image, failed, files, volatile } = disk;
    const imageReadOnly = readsOnly || disk.imageReadOnly;
    if (image !== undefined) this.image = image;
    if (imageReadOnly !== undefined) this.imageReadOnly = imageReadOnly;
    if (failed !== undefined) this.failed = failed;
    if (volatile !== undefined) this.volatile = volatile;
    if (files !== undefined) this.files = readsOnly ? files.map((file) => ({ ...file, writable: false })) : files;
    if (disk.grow !== undefined) this.grow = (sizeBytes) => this.#grow(sizeBytes);
    if (disk.watchTrouble !== undefined) this.watchTrouble = (listener) => disk.watchTrouble!(listener);
    if (disk.waitsFor !== undefined) this.waitsFor = (rule) => disk.waitsFor!(rule);
    if (disk.reattach !== undefined) {
      this.reattach = (attachment, lane) => {
        const inner = disk.reattach!(behind(attachment, filters.length), lane);
        return inner === undefined ? undefined : this.#behind(inner);
      };
    }
    if (disk.withoutUring !== undefined) {
      this.withoutUring = async (lane, refusal) => this.#behind(await disk.withoutUring!(lane, refusal));
    }
  }

  get properties(): DiskProperties {
    const all = eachFrom(this.#disk, this.#filters);
    return this.#readOnly ? { ...all, readOnly: true } : all;
  }

  get trouble(): string | undefined {
    return this.#disk.trouble;
  }

  get named(): string | undefined {
    return this.#disk.named;
  }

  get daemon(): ChainDaemon | undefined {
    return this.#disk.daemon;
  }

  get description(): string {
    return `${this.#disk.description} behind ${this.#filters.map(({ name }) => name).join(", ")}`;
  }

  async attachment(lane: number): Promise<DiskAttachment> {
    return this.#behind(await this.#disk.attachment(lane));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await using _hold = this.#hold;
    await this.#disk[Symbol.asyncDispose]();
  }

  async #grow(sizeBytes: number | undefined): Promise<void> {
    if (sizeBytes !== undefined && this.imageReadOnly === true) {
      throw new XenblkError(`Cannot make ${this.#disk.description} larger: a filter keeps all writes from it`, {
        remedy: "make the image larger by other means, then look at its size again",
      });
    }
    await this.#disk.grow!(sizeBytes);
    eachFrom(this.#disk, this.#filters, (filter, below) => filter.resized(below));
  }

  #behind(disk: DiskAttachment): DiskAttachment {
    return this.#filters.reduceRight<DiskAttachment>((inner, filter) => filter.attachment(inner), disk);
  }
}

/** What is behind so many filters that have one disk each. */
function behind(attachment: DiskAttachment, filters: number): DiskAttachment {
  const { inner } = attachment;
  return filters === 0 || inner === undefined || isSeveral(inner) ? attachment : behind(inner, filters - 1);
}

/** Array.isArray does not narrow to a readonly array. */
function isSeveral(inner: DiskAttachment | readonly DiskAttachment[]): inner is readonly DiskAttachment[] {
  return Array.isArray(inner);
}

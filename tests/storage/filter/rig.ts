/**
 * Channels to a disk behind filters, in one thread, with a clock that stands still until a test moves it.
 */

import type { Platform, WakeToken } from "../../../lib/hypervisor.ts";
import { DiskModules } from "../../../lib/storage/channel.ts";
import type { ChannelOptions, Disk, DiskAttachment, IoChannel } from "../../../lib/storage/disk.ts";
import { chooseFilters, type FilterChoice } from "../../../lib/storage/filter/spec.ts";
import { FilterStack, type LiveFilter } from "../../../lib/storage/filter/stack.ts";
import { openDisk } from "../../../lib/storage/open.ts";
import { ChannelRig, simulatedPlatform } from "../rig.ts";

/** Where a test's time begins. */
export const START_MS = 1_000_000;

/** A disk behind filters, and one channel or several to it. */
export class FilterRig implements AsyncDisposable {
  readonly disk: Disk;
  readonly rings: readonly ChannelRig[];
  readonly #stack: FilterStack;
  readonly #clock: { nowMs: number };
  readonly #undo: AsyncDisposableStack;

  private constructor(
    disk: Disk,
    rings: readonly ChannelRig[],
    stack: FilterStack,
    clock: { nowMs: number },
    undo: AsyncDisposableStack,
  ) {
    this.disk = disk;
    this.rings = rings;
    this.#stack = stack;
    this.#clock = clock;
    this.#undo = undo;
  }

  /** In front of a disk in memory of 1 MiB, or of another one, which then belongs to the rig. */
  static async open(
    filters: readonly FilterChoice[],
    { rings = 1, disk, depth = 8 }: { rings?: number; disk?: Disk; depth?: number } = {},
  ): Promise<FilterRig> {
    await using undo = new AsyncDisposableStack();
    const clock = { nowMs: START_MS };
    const platform = Object.assign(simulatedPlatform(), { now: () => clock.nowMs });
    const inner = disk ?? await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
    const stack = new FilterStack(await chooseFilters(filters));
    const filtered = undo.use(stack.wrap(inner, { key: "", readOnly: false }));
    const open = await channelsOf(platform, await filtered.attachment(0));
    const made: ChannelRig[] = [];
    for (let i = 0; i < rings; i++) {
      made.push(undo.use(new ChannelRig(await filtered.attachment(0), { platform, open, depth })));
    }
    return new FilterRig(filtered, made, stack, clock, undo.move());
  }

  /** The first ring. */
  get ring(): ChannelRig {
    return this.rings[0]!;
  }

  /** The filter of that name. */
  filter(name: string): LiveFilter {
    return this.#stack.filter(name)!;
  }

  /** Time passes. */
  advance(ms: number): void {
    this.#clock.nowMs += ms;
  }

  get nowMs(): number {
    return this.#clock.nowMs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}

/** One pass of a queue: results by tag. */
export function pass({ channel }: ChannelRig): Map<number, number> {
  channel.submit();
  const count = channel.reap();
  return new Map(Array.from({ length: count }, (_, i) => [channel.tags[i]!, channel.results[i]!]));
}

/** Opens channels to disks of that attachment's modules. */
export async function channelsOf(
  platform: Platform,
  attachment: DiskAttachment,
): Promise<(attachment: DiskAttachment, options: ChannelOptions) => IoChannel> {
  const token: WakeToken = platform.createWakeToken();
  const modules = new DiskModules({ platform, parker: platform.openParker(token), token });
  await modules.load(attachment);
  return (attachment, options) => modules.openChannel(attachment, options);
}

/**
 * What a filter is: a disk module that stands in front of another disk, and a description of its options. A filter of this
 * project is a file beside this one and a row in table.ts; one from outside is any module that exports the same.
 */

import type { DiskAttachment, DiskModule, DiskProperties } from "../disk.ts";

/** A value of an option, as a program writes it; on the command line it is text. */
export type FilterValue = string | number | boolean;

/** The options of a filter, by name. */
export type FilterValues = Readonly<Record<string, FilterValue>>;

/** One option of a filter. */
export interface FilterOption {
  /** What it is for, with its unit. */
  readonly help: string;
  /** The word for the value in help texts: `SIZE`. */
  readonly placeholder: string;
  /** The allowed values, as the end of a sentence: `a whole number from 1 to 32`. */
  readonly allowed: string;
  /** The value that a text or a program's value stands for; undefined: it is not allowed. */
  parse(value: FilterValue): FilterValue | undefined;
  /** The value if none is given. Absent: the option must be given. */
  readonly fallback?: FilterValue;
  /**
   * The number that channels see in {@linkcode FilterAttachment.live}. Present: the option can be changed while the disk
   * is served. Such an option has a fallback.
   */
  live?(value: FilterValue): number;
}

/** A filter as those see it who choose and stack filters. */
export interface FilterDefinition {
  /** What it does, in one line. */
  readonly summary: string;
  /** By name. */
  readonly options: Readonly<Record<string, FilterOption>>;
  /**
   * Why these values, each allowed by itself, cannot be used together; undefined: they can. `spell` turns the name of an
   * option into what whoever gave it calls it.
   */
  refuse?(values: FilterValues, spell: (name: string) => string): string | undefined;
  /** Options that get other values when these are changed while the disk is served, unless they are among them. */
  replaced?(changes: FilterValues): FilterValues;
  /**
   * Looks whether what {@linkcode open} needs can be had, before any disk is served. Rejects with {@linkcode XenblkError}
   * if not; it changes nothing.
   */
  check?(values: FilterValues): Promise<void>;
  /** The disk behind it is only read, so its image is opened and locked for reading. */
  readonly readsOnly?: boolean;
  /**
   * Live options that are set when the device is given up, or its guest or its nodes are gone: nothing that the filter
   * holds may keep it from ending.
   */
  readonly atEnd?: FilterValues;
  /** The guest relies on what the filter's state holds: see {@linkcode FilterAttachment.lost}. */
  readonly keepsWrites?: boolean;
  /** What the guest sees of a disk behind the filter. Absent: the same as without it. */
  properties?(disk: DiskProperties, values: FilterValues): DiskProperties;
  /**
   * Makes what all channels to one disk share, structured-cloneable: {@linkcode FilterAttachment.state}. It lasts until
   * the device is detached or gets another image. Throws what the memory throws.
   */
  createState?(disk: DiskProperties, values: FilterValues): unknown;
  /**
   * Opens what the filter needs beside memory, such as a file, each time that a disk is opened; its state takes the place of
   * that of {@linkcode createState}. It may wait. What it rejects with is the reason why the disk cannot be opened.
   */
  open?(disk: DiskProperties, values: FilterValues, place: FilterPlace): Promise<FilterHold>;
}

/** Where a filter is opened. */
export interface FilterPlace {
  /** The device's label, unique on this host: `vbd3/5/51712`. */
  readonly device: string;
  /** Gets lines for the operator. */
  readonly warn: (message: string) => void;
}

/** What a filter holds while a disk is open. Disposed when the disk and its channels are closed. */
export interface FilterHold extends AsyncDisposable {
  /** See {@linkcode FilterAttachment.state}. */
  readonly state: unknown;
}

/** What the module of a filter exports. */
export interface FilterModule extends DiskModule {
  /** Describes it. */
  readonly filter: FilterDefinition;
}

/** Names a disk behind a filter. */
export interface FilterAttachment extends DiskAttachment {
  /** The disk. */
  readonly inner: DiskAttachment;
  /** All options; of those that are live, the values when the channel was attached. */
  readonly options: FilterValues;
  /** The live options, in the order of the definition, and the size of the disk: see LiveValues. */
  readonly live: SharedArrayBuffer;
  /** See {@linkcode FilterDefinition.createState}. */
  readonly state?: unknown;
  /** The guest's writes were in the state of a process that has ended: all operations must fail. */
  readonly lost: boolean;
}

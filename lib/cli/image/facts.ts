/**
 * What `qemu-img info` says about an image, in this project's names and units; and as JSON, as the verbs print it.
 */

import { isLocked, qemuImgError, type QemuImgOutcome, runQemuImg } from "../../storage/qemu/qemu_img.ts";
import { imageLabel } from "../../storage/image/spec.ts";
import { type ExistingImage, sourceArguments } from "./name.ts";

/** How long looking at an image may take: its metadata alone is read. */
const LOOK_MS = 30_000;

/** A snapshot inside an image. */
export interface SnapshotFacts {
  readonly id: string;
  readonly name: string;
  /** When it was taken, in ISO 8601, to the second. */
  readonly takenAt: string;
  /** Of the guest's memory and devices, if it was saved with them. */
  readonly vmStateBytes: number;
}

/** An image, as its own metadata describes it. */
export interface ImageFacts {
  /** `FORMAT:PATH`. */
  readonly name: string;
  readonly format: string;
  /** What a guest sees. */
  readonly sizeBytes: number;
  /** What it occupies on its file system, if that is known. */
  readonly allocatedBytes?: number;
  readonly clusterBytes?: number;
  /** qcow2: clusters have subclusters (extended_l2). */
  readonly subclusters?: boolean;
  /** Not closed since it was written to: in use, or its user was killed. */
  readonly dirty: boolean;
  /** QEMU found damage in it, and opens it read-only until it is repaired. */
  readonly corrupt: boolean;
  /** The kind of encryption: `luks`, `aes`. */
  readonly encryption?: string;
  readonly backing?: { readonly path: string; readonly format?: string };
  readonly snapshots: readonly SnapshotFacts[];
  /** Another process writes to it: all of this may change. */
  readonly inUse: boolean;
}

/** What qemu-img prints (qapi/block-core.json, ImageInfo). */
interface ImageInfo {
  readonly filename: string;
  readonly format: string;
  readonly "virtual-size": number;
  readonly "actual-size"?: number;
  readonly "cluster-size"?: number;
  readonly "dirty-flag"?: boolean;
  readonly encrypted?: boolean;
  readonly "backing-filename"?: string;
  readonly "full-backing-filename"?: string;
  readonly "backing-filename-format"?: string;
  readonly snapshots?: readonly {
    readonly id: string;
    readonly name: string;
    readonly "date-sec": number;
    readonly "vm-state-size": number;
  }[];
  readonly "format-specific"?: {
    readonly data: {
      readonly corrupt?: boolean;
      readonly "extended-l2"?: boolean;
      readonly encrypt?: { readonly format: string };
    };
  };
}

/** How an image is looked at. */
export interface LookOptions {
  /** Its backing images too, which the image names. */
  readonly chain?: boolean;
  readonly signal?: AbortSignal;
}

/** The image, and with `chain` its backing images after it. Rejects with {@linkcode XenblkError}. */
export async function readFacts(image: ExistingImage, { chain = false, signal }: LookOptions): Promise<ImageFacts[]> {
  const source = await sourceArguments(image);
  const look = (...more: string[]): Promise<QemuImgOutcome> => {
    const args = ["info", "--output=json", ...source.objects, ...more, ...(chain ? ["--backing-chain"] : [])];
    return runQemuImg([...args, ...source.image], { timeoutMs: LOOK_MS, ...(signal && { signal }) });
  };
  let outcome = await look();
  const inUse = outcome.status !== 0 && isLocked(outcome);
  if (inUse) outcome = await look("--force-share");
  if (outcome.status !== 0) throw qemuImgError(`Cannot look at image ${imageLabel(image)}`, outcome);
  const found = JSON.parse(outcome.stdout) as ImageInfo | ImageInfo[];
  const infos = Array.isArray(found) ? found : [found];
  return infos.map((info, index) => factsOf(info, index === 0 ? image.target : info.filename, inUse));
}

function factsOf(info: ImageInfo, target: string, inUse: boolean): ImageFacts {
  const { format, encrypted } = info;
  const data = info["format-specific"]?.data;
  const encryption = format === "luks" ? "luks" : encrypted ? data?.encrypt?.format ?? "yes" : undefined;
  const backing = info["full-backing-filename"] ?? info["backing-filename"];
  const backingFormat = info["backing-filename-format"];
  return {
    name: imageLabel({ format, target }),
    format,
    sizeBytes: info["virtual-size"],
    ...defined("allocatedBytes", info["actual-size"]),
    ...defined("clusterBytes", info["cluster-size"]),
    ...defined("subclusters", data?.["extended-l2"]),
    dirty: info["dirty-flag"] ?? false,
    corrupt: data?.corrupt ?? false,
    ...defined("encryption", encryption),
    ...(backing === undefined ? {} : { backing: { path: backing, ...defined("format", backingFormat) } }),
    snapshots: (info.snapshots ?? []).map((snapshot) => ({
      id: snapshot.id,
      name: snapshot.name,
      takenAt: new Date(snapshot["date-sec"] * 1000).toISOString().replace(".000Z", "Z"),
      vmStateBytes: snapshot["vm-state-size"],
    })),
    inUse,
  };
}

/** A property that is absent if its value is undefined. */
function defined<N extends string, V>(name: N, value: V | undefined): { readonly [K in N]?: V } {
  return (value === undefined ? {} : { [name]: value }) as { readonly [K in N]?: V };
}

/**
 * The options of `attach` with what the configuration file says of its disk.
 */

import { DEFAULT_KIND } from "../../xenbus/paths.ts";
import type { DiskIdentity } from "../../backend/disk_identity.ts";
import type { HostPlatform } from "../../host_platform.ts";
import { imageName, paramsOf, parseImage } from "../../storage/image/spec.ts";
import { resolveDomain } from "../../toolstack/domains.ts";
import { parseVdev } from "../../xenbus/vdev.ts";
import type { Config, GivenOptions } from "./file.ts";

/** What is to be attached. */
interface WantedDisk {
  readonly domain: string;
  /** Absent if the image is yet to be made and named. */
  readonly image: string | undefined;
  /** Absent: the first free one. Then rules for a virtual device do not apply. */
  readonly vdev: string | undefined;
}

/** Rejects with {@linkcode XenblkError} if the domain or the image cannot be found by its name. */
export async function optionsForAttach<T extends { readonly kind: string }>(
  platform: HostPlatform,
  config: Config,
  given: GivenOptions<T>,
  wanted: WantedDisk,
): Promise<T> {
  const byDefault = config.forAttach(given, { kind: DEFAULT_KIND });
  if (!config.hasRules) return byDefault;
  return config.forAttach(given, await identify(platform, byDefault.kind, wanted));
}

async function identify(platform: HostPlatform, kind: string, wanted: WantedDisk): Promise<DiskIdentity> {
  const spec = wanted.image === undefined ? undefined : await parseImage(wanted.image);
  const vdev = wanted.vdev ?? spec?.vdev;
  using store = platform.openXenstore();
  const { domain, name, uuid } = resolveDomain(store, wanted.domain);
  return {
    kind,
    domain,
    ...(name === undefined ? {} : { domainName: name }),
    ...(uuid === undefined ? {} : { domainUuid: uuid }),
    ...(vdev === undefined ? {} : { vdev: parseVdev(vdev) }),
    ...(spec === undefined ? {} : { image: await paramsOf(imageName(spec)) }),
  };
}

/**
 * Finds a domain by its domid, UUID or name, in the nodes that the toolstack keeps in xenstore.
 */

import { XenblkError } from "../errors.ts";
import type { DomId, XenstoreOperations } from "../hypervisor.ts";
import { printable } from "../log.ts";
import { parseDomId } from "../xenbus/paths.ts";

/** A domain as its nodes describe it. */
export interface DomainInfo {
  /** Its domid. */
  readonly domain: DomId;
  /** Absent while the toolstack has not named it. */
  readonly name?: string;
  /** Lower case, with hyphens. */
  readonly uuid?: string;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The number of domains that an error message lists; it counts the rest as `and N more`. */
const MOST_NAMED = 8;

/** All domains in xenstore, by domid. */
export function listDomains(store: XenstoreOperations): DomainInfo[] {
  const domains = (store.list("/local/domain") ?? []).map(parseDomId).filter((domain) => domain !== undefined);
  return domains.sort((a, b) => a - b).map((domain) => describeDomain(store, domain));
}

/**
 * The domain that `text` names: a number is a domid, a UUID is a UUID, anything else is a name. Throws
 * {@linkcode XenblkError}: `not-found` with the domains that exist, or `failed` if several have the name.
 */
export function resolveDomain(store: XenstoreOperations, text: string): DomainInfo {
  const domains = listDomains(store);
  const found = domains.filter(matcher(text));
  if (found.length === 1) return found[0]!;
  if (found.length > 1) {
    const domids = found.map((info) => info.domain).join(", ");
    throw new XenblkError(`Cannot tell which domain ${text} is: domains ${domids} have that name`, {
      remedy: "give the domid instead",
    });
  }
  throw new XenblkError(`Cannot find domain ${text}: ${summary(domains)}`, {
    kind: "not-found",
    remedy: "give a name, UUID or domid that `xl list` shows",
  });
}

/** For messages: `web (domain 5)`, or `domain 5` if it has no name. A name may hold anything. */
export function domainLabel(info: DomainInfo): string {
  return info.name === undefined ? `domain ${info.domain}` : `${printable(info.name)} (domain ${info.domain})`;
}

function matcher(text: string): (info: DomainInfo) => boolean {
  if (/^[0-9]+$/.test(text)) {
    const domain = parseDomId(text);
    return (info) => info.domain === domain;
  }
  if (UUID.test(text)) {
    const uuid = text.toLowerCase();
    return (info) => info.uuid === uuid;
  }
  return (info) => info.name === text;
}

/** The domain as its nodes describe it; a domain that is gone has neither name nor UUID. */
export function describeDomain(store: XenstoreOperations, domain: DomId): DomainInfo {
  const name = store.read(`/local/domain/${domain}/name`);
  const uuid = store.read(`/local/domain/${domain}/vm`)?.replace(/^\/vm\//, "").toLowerCase();
  return {
    domain,
    ...(name === undefined || name === "" ? {} : { name }),
    ...(uuid === undefined || !UUID.test(uuid) ? {} : { uuid }),
  };
}

function summary(domains: readonly DomainInfo[]): string {
  if (domains.length === 0) return "xenstore holds no domain";
  const named = domains.slice(0, MOST_NAMED).map(domainLabel).join(", ");
  const more = domains.length - MOST_NAMED;
  return `there is ${named}${more > 0 ? ` and ${more} more` : ""}`;
}

/**
 * What a relay and its Worker say to each other.
 */

/** Where readers connect. */
export type RelayAddress = { readonly path: string } | { readonly hostname: string; readonly port: number };

/** What the Worker is to do. */
export interface RelayOrder {
  readonly listen: RelayAddress;
  /** A Unix socket. */
  readonly target: string;
}

/** What it says: first that it listens, with the port of a TCP socket, later that it does no more. */
export type RelayAnswer = { readonly port: number } | { readonly failure: string };

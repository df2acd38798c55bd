/**
 * How a device is left when its process stops serving it.
 */

/** How a device is left when its process stops serving it. */
export interface CloseOptions {
  /**
   * `connected`: the nodes stay as they are; the next process takes over, and the guest only sees a pause.
   * `detached`: the guest is asked to close the disk, and the device ends Closed. A device that another process owns is
   * left alone.
   */
  readonly leave: "connected" | "detached";
  /** How long the guest may take to close it. */
  readonly timeoutMs: number;
}

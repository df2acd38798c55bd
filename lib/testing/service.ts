/**
 * A service on a simulated host: a process that serves what toolstacks attach, and that a test can close or kill.
 */

import type { CloseOptions } from "../backend/close_options.ts";
import type { SettingsRule } from "../backend/disk_identity.ts";
import type { DeviceSettings } from "../backend/settings.ts";
import type { DeviceStatus } from "../backend/status.ts";
import { createLogger, type Logger } from "../log.ts";
import { type CloseResult, type RunningService, startRunning } from "../service.ts";
import { type ProcessHost, SimulatedProcess } from "./process.ts";

/** What a service serves, and how. */
export interface TestServiceOptions {
  /** The backend kind: the directory below `backend/` in xenstore. Default `vbd3`. */
  readonly kind?: string;
  /** For all devices alike. */
  readonly settings?: Partial<DeviceSettings>;
  /** The settings of each device, in place of `settings`. Absent: they are alike. */
  readonly settingsFor?: SettingsRule;
  /** Keep journals, so that a kill loses no request. Default true. */
  readonly journal?: boolean;
  /** Most threads that serve rings. Default: one for each CPU. */
  readonly workers?: number;
  /** Default: LogTape's category `xenblk.backend`. */
  readonly logger?: Logger;
}

/** A running service. Disposing it closes it and leaves its disks Connected, for another one to go on with. */
export class TestService implements AsyncDisposable {
  readonly #process: SimulatedProcess;
  readonly #running: RunningService;
  #over: Promise<unknown> | undefined;

  private constructor(process: SimulatedProcess, running: RunningService) {
    this.#process = process;
    this.#running = running;
    this.failed.catch(() => {});
  }

  /** Starts a process with a service. */
  static async start(host: ProcessHost, options: TestServiceOptions): Promise<TestService> {
    const process = new SimulatedProcess(host);
    const { kind = "vbd3", logger = createLogger("backend"), ...rest } = options;
    const { platform, clock } = process;
    return new TestService(
      process,
      await startRunning({ platform, clock, kind, logger: process.heard(logger), ...rest }),
    );
  }

  /** Whether it was neither closed nor killed. */
  get running(): boolean {
    return this.#over === undefined;
  }

  /** What each device looks like now. */
  status(): DeviceStatus[] {
    return this.#running.service.devices.status();
  }

  /** Rejects when a thread of it died of a defect. */
  get failed(): Promise<never> {
    return this.#running.service.failed;
  }

  /** Finishes what is in flight and ends, in order. Of several calls the first counts. */
  async close(options: CloseOptions = { leave: "connected", timeoutMs: 60_000 }): Promise<CloseResult> {
    const closing = this.#over === undefined ? this.#running.service.close(options) : undefined;
    this.#over ??= closing;
    await this.#over;
    return await closing ?? { finished: true, stuck: [] };
  }

  /**
   * Ends it as `kill -9` does: its threads stop where they are, journals and nodes stay, locks are released, and files
   * and grants are closed. With `beforeNotification` it dies after it has published responses and before it notifies
   * their guest: so only once a guest has requests. Resolves when nothing of it runs any more.
   */
  async kill(options: { readonly beforeNotification?: boolean } = {}): Promise<void> {
    this.#over ??= this.#process.kill(this.#running, options.beforeNotification ?? false);
    await this.#over;
  }

  /** The same as {@linkcode TestService.close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

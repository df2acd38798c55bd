/**
 * Writes the lines of a command's log to where stderr goes. Lines for systemd's journal go there as records, with the
 * disk that a line is about in fields, as soon as the platform is open; it has the system calls for that.
 */

import type { NativePlatform } from "../host_platform.ts";
import type { LogLevel } from "../log.ts";
import type { Environment } from "../systemd/environment.ts";
import { JOURNAL_SOCKET, journalRecord } from "../systemd/journal.ts";
import { isJournal, journalMessage, type LogFormat, logFormatFor, logLine, PRIORITY } from "./log_format.ts";
import type { Output } from "./output.ts";
import { diskIn, type GuestNames, readableLine } from "./readable.ts";
import type { Host } from "./verb.ts";

/** As SyslogIdentifier= in the units. */
const IDENTIFIER = "xenblk";

/** What decides how lines are written. */
export interface LogWriterOptions {
  readonly output: Output;
  readonly environment: Environment;
  /** The command runs until it is ended. */
  readonly keepsRunning: boolean;
  /** Names of guests, as far as they are known. */
  readonly guests: GuestNames;
}

/** Writes lines. The command's own messages get the same form. */
export class LogWriter {
  readonly #output: Output;
  readonly #guests: GuestNames;
  readonly #format: LogFormat;
  readonly #toJournal: boolean;
  #send: NativePlatform["sendDatagram"] | undefined;

  constructor({ output, environment, keepsRunning, guests }: LogWriterOptions) {
    this.#output = output;
    this.#guests = guests;
    this.#format = logFormatFor({ environment, onTerminal: output.messagesOnTerminal, keepsRunning });
    this.#toJournal = this.#format === "journal" && isJournal(environment);
    if (this.#format === "journal") output.dress = journalMessage;
  }

  /** The same host. Once it has opened the platform, lines for the journal go there by themselves. */
  through(host: Host): Host {
    if (!this.#toJournal) return host;
    return {
      openNativePlatform: async (): Promise<NativePlatform> => {
        const platform = await host.openNativePlatform();
        this.#send = (socket, bytes): number => platform.sendDatagram(socket, bytes);
        return platform;
      },
    };
  }

  /** Writes one line. A record that the journal does not take becomes a line of stderr, which waits for its reader. */
  write(level: LogLevel, text: string): void {
    const line = readableLine(text, this.#guests);
    if (this.#send !== undefined && this.#send(JOURNAL_SOCKET, this.#record(level, text, line)) === 0) return;
    const disk = this.#format === "json" ? diskIn(text, this.#guests) : undefined;
    this.#output.raw(`${logLine(this.#format, level, line, new Date(), disk)}\n`);
  }

  #record(level: LogLevel, text: string, line: string): Uint8Array<ArrayBuffer> {
    const disk = diskIn(text, this.#guests);
    return journalRecord({
      MESSAGE: line,
      PRIORITY: String(PRIORITY[level]),
      SYSLOG_IDENTIFIER: IDENTIFIER,
      XENBLK_KIND: disk?.kind,
      XENBLK_DOMAIN: disk?.domain.toString(),
      XENBLK_GUEST: disk?.guest,
      XENBLK_VDEV: disk?.vdev,
    });
  }
}

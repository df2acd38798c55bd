/**
 * What a service manager says about itself in the environment of a process (sd_notify(3), sd_watchdog_enabled(3)).
 */

/** Reads an environment variable. Undefined: it is not set, or may not be read. */
export type Environment = (name: string) => string | undefined;

/** Which messages a service manager expects. */
export interface ServiceManager {
  /** Its socket: a path, or `@` and an abstract name. */
  readonly socket: string;
  /** It ends the process that sends no sign of life for so long. Absent: it does not. */
  readonly watchdogMs?: number;
}

/** The service manager that started the process `pid`. Undefined: none, or one that expects no messages. */
export function serviceManagerOf(environment: Environment, pid: number): ServiceManager | undefined {
  const socket = environment("NOTIFY_SOCKET");
  // Other kinds of addresses (vsock) are for virtual machines.
  if (socket === undefined || !/^[/@]./.test(socket)) return undefined;
  const watched = environment("WATCHDOG_PID");
  const watchdogMs = Number(environment("WATCHDOG_USEC")) / 1000;
  const isOurs = watched === undefined || watched === String(pid);
  return { socket, ...(isOurs && watchdogMs > 0 && Number.isFinite(watchdogMs) ? { watchdogMs } : {}) };
}

/** The process's environment. A variable that Deno may not read counts as unset: nobody is asked at a terminal. */
export function ownEnvironment(name: string): string | undefined {
  if (Deno.permissions.querySync({ name: "env", variable: name }).state !== "granted") return undefined;
  return Deno.env.get(name);
}

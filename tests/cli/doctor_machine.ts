/**
 * An invented machine for the tests of `doctor`: in order, unless a test says otherwise.
 */

import type { Directory, FileFacts, Machine, Space } from "../../lib/cli/doctor/machine.ts";

/** What differs from a machine on which everything is permitted and nothing is there. */
export interface MachineParts {
  readonly texts?: Readonly<Record<string, string>>;
  readonly denied?: readonly string[];
  readonly hidden?: readonly string[];
  readonly directories?: Readonly<Record<string, Directory | "denied" | "other" | "hidden">>;
  readonly files?: Readonly<Record<string, FileFacts | "denied" | "other" | "hidden">>;
  readonly space?: Space | "hidden";
  /** What programs print, by the name of the program. */
  readonly programs?: Readonly<Record<string, string | "late" | "hidden">>;
  readonly user?: number;
  readonly environment?: Readonly<Record<string, string>>;
  readonly permissions?: Partial<Record<"read" | "write" | "ffi" | "env", "granted" | "partial" | "prompt">>;
}

/** A machine with these parts. */
export function machine(parts: MachineParts): Machine {
  const texts = parts.texts ?? {};
  return {
    readText: (path) => texts[path],
    isHidden: (path) => parts.hidden?.includes(path) ?? false,
    access: (path) =>
      parts.hidden?.includes(path)
        ? "hidden"
        : parts.denied?.includes(path)
        ? "denied"
        : path in texts
        ? "usable"
        : "absent",
    directory: (path) => parts.directories?.[path] ?? "absent",
    file: (path) => parts.files?.[path] ?? "absent",
    tail: (path) => texts[path],
    space: () => parts.space ?? "unknown",
    run: ([program]) => {
      const printed = parts.programs?.[program];
      return Promise.resolve(
        printed === undefined ? "absent" : printed === "late" || printed === "hidden" ? printed : { stdout: printed },
      );
    },
    user: () => parts.user ?? 0,
    environment: (name) => parts.environment?.[name],
    permission: (name) => parts.permissions?.[name] ?? "granted",
  };
}

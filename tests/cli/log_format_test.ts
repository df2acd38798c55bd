/**
 * How lines of the log look, by where stderr goes: a terminal, a file, systemd's journal; and how they name disks.
 */

import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { type LogFormat, logFormatFor, logLine } from "../../lib/cli/log_format.ts";
import { readableLine } from "../../lib/cli/readable.ts";
import { xenblk } from "./command.ts";

const TIME = new Date("2026-11-30T00:01:02.003Z");

function formatIn(variables: Record<string, string>, onTerminal = false, keepsRunning = true): LogFormat {
  return logFormatFor({ environment: (name) => variables[name], onTerminal, keepsRunning });
}

Deno.test("the journal gets levels, a file times, a terminal and a command that ends neither; a variable overrides", () => {
  const { dev, ino } = Deno.statSync("/proc/self/fd/2");
  assertEquals(formatIn({ JOURNAL_STREAM: `${dev}:${ino}` }), "journal");
  assertEquals(formatIn({ JOURNAL_STREAM: `${dev}:1${ino}` }), "time", "stderr was redirected");
  assertEquals(formatIn({}, true), "plain");
  assertEquals(formatIn({}, false, false), "plain");
  assertEquals(formatIn({ XENBLK_LOG_FORMAT: "json" }, true), "json");
  const error = assertThrows(() => formatIn({ XENBLK_LOG_FORMAT: "xml" }), XenblkError);
  assertEquals(error.exitStatus, 2);
});

Deno.test("each format has the level and the text", () => {
  const line = (format: LogFormat): string => logLine(format, "warning", "no room", TIME);
  assertEquals(line("plain"), "xenblk: warning: no room");
  assertEquals(line("time"), "2026-11-30T00:01:02.003Z xenblk: warning: no room");
  assertEquals(line("journal"), "<4>no room");
  assertEquals(JSON.parse(line("json")), { time: "2026-11-30T00:01:02.003Z", level: "warning", message: "no room" });
});

Deno.test("a line names the guest where its name is known", () => {
  const names = new Map([[5, "web\x1b"]]);
  assertEquals(readableLine("vbd3/5/51712: gone", names), "xvda of web\\x1b (domain 5): gone");
  assertEquals(readableLine("vbd3/6/51712 queue 1: gone", names), "xvda of domain 6, queue 1: gone");
});

Deno.test("in the journal, the error that ends a command has the level of an error", async () => {
  const failing = ["image", "info", "/nonexistent"];
  const { stderr } = await xenblk(failing, { env: { XENBLK_LOG_FORMAT: "journal" } });
  assertMatch(stderr, /^<3>Cannot open image /);
  assertStringIncludes((await xenblk(failing)).stderr, "xenblk: Cannot open image ");
});

/**
 * A command's output: the two streams, a reader that goes away, tables, progress, errors.
 * No verb is run.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import { type ByteSink, Output } from "../../lib/cli/output.ts";
import { readableLine } from "../../lib/cli/readable.ts";
import { EndedBySignal } from "../../lib/cli/signals.ts";
import { Progress, showWait, timeLeft } from "../../lib/cli/progress.ts";
import { reportError } from "../../lib/cli/error_report.ts";
import { renderFields, renderTable } from "../../lib/cli/table.ts";
import { Recorder } from "./recorder.ts";

const PLAIN = { verbose: false, json: false };
const VERBOSE = { verbose: true, json: false };

Deno.test("data goes to stdout, messages to stderr, and short writes are continued", () => {
  const [stdout, stderr] = [new Recorder(), new Recorder()];
  const output = new Output(stdout, stderr);
  output.data("some data\n");
  output.message("a message");
  output.json({ a: 1 });
  assertEquals(stdout.text, 'some data\n{\n  "a": 1\n}\n');
  assertEquals(stderr.text, "a message\n");
});

Deno.test("data that cannot be written is reported once, and the rest is dropped", () => {
  const [stdout, stderr] = [new Recorder(false, [new Error("No space left on device")]), new Recorder()];
  const output = new Output(stdout, stderr);
  assertEquals(output.failed, false);
  output.data("x");
  output.data("y");
  assertEquals([output.failed, stdout.text], [true, ""]);
  assertEquals(stderr.text, "xenblk: Cannot write to standard output: No space left on device\n");
});

Deno.test("messages that cannot be written are counted in the next one that can", () => {
  const stderr = new Recorder(false, [new Error("No space left on device"), new Deno.errors.BrokenPipe("gone")]);
  const output = new Output(new Recorder(), stderr);
  for (const line of ["one", "two", "three"]) output.message(line);
  assertEquals([output.failed, stderr.text], [true, "xenblk: 2 messages could not be written here\nthree\n"]);
});

Deno.test("a reader of stderr that takes nothing is not waited for without end", () => {
  const full = Array.from({ length: 10_000 }, () => new Deno.errors.WouldBlock("full"));
  const output = new Output(new Recorder(), new Recorder(false, full));
  const startMs = performance.now();
  for (let line = 0; line < 10; line++) output.message("a line");
  assert(performance.now() - startMs < 5_000);
  assert(output.failed);
});

Deno.test("a full non-blocking pipe is waited for", () => {
  const stdout = new Recorder(false, [new Deno.errors.WouldBlock("full"), new Deno.errors.WouldBlock("full")]);
  new Output(stdout, new Recorder()).data("all of it");
  assertEquals(stdout.text, "all of it");
});

Deno.test("tables align their columns, count characters and hold no control character", () => {
  const columns = [{ heading: "NAME" }, { heading: "SIZE", align: "right" }] as const;
  assertEquals(
    renderTable(columns, [["xvda", "1"], ["é\x1b[2J", "1024"]]),
    "NAME      SIZE\nxvda         1\né\\x1b[2J  1024\n",
  );
  assertEquals(renderTable(columns, [["a", "1"]], false), "a  1\n");
  assertEquals(renderTable(columns, []), "NAME  SIZE\n");
  assertEquals(renderFields([["requests", "7"], ["MB/s", "1.0"]]), "requests  7\nMB/s      1.0\n");
});

Deno.test("progress is one line on a terminal, rewritten in place and erased", () => {
  const stderr = new Recorder(true);
  let now = 0;
  {
    using progress = new Progress(new Output(new Recorder(), stderr), false, () => now);
    progress.update("1 of 2");
    progress.update("too soon");
    now = 1000;
    progress.update("2 of 2");
  }
  assertEquals(stderr.text, "\r1 of 2\x1b[K\r2 of 2\x1b[K\r\x1b[K");
});

Deno.test("progress fits the terminal's line, so that it can be rewritten", () => {
  const stderr = new Recorder(true);
  {
    using progress = new Progress(new Output(new Recorder(), stderr, () => 8), false);
    progress.update("1234567890");
  }
  assertEquals(stderr.text, "\r1234567\x1b[K\r\x1b[K");
});

Deno.test("progress is not shown without a terminal, or when quiet", () => {
  for (const [terminal, quiet] of [[false, false], [true, true]] as const) {
    const stderr = new Recorder(terminal);
    {
      using progress = new Progress(new Output(new Recorder(), stderr), quiet);
      progress.update("1 of 2");
    }
    assertEquals(stderr.text, "");
  }
});

Deno.test("log lines name disks as xl and list do, and leave paths as they are", () => {
  const lines = {
    "vbd3/5/51712: removed": "xvda of domain 5: removed",
    "error: qdisk/5/51760 queue 2: refused": "error: xvdd of domain 5, queue 2: refused",
    "Cannot release vbd3/7/51713: cannot close": "Cannot release xvda1 of domain 7: cannot close",
    "cannot look at /local/domain/0/backend/vbd3/5/51712: no":
      "cannot look at /local/domain/0/backend/vbd3/5/51712: no",
    "serving backend/vbd3/5/51712": "serving backend/vbd3/5/51712",
    "vbd3/5/17: closed": "vbd3/5/17: closed",
  };
  for (const [line, readable] of Object.entries(lines)) assertEquals(readableLine(line), readable);
});

Deno.test("a line of progress gives way to what is written next", () => {
  const terminal = new Recorder(true);
  const output = new Output(terminal, terminal, () => 80);
  output.showProgress("half");
  output.message("a message");
  output.showProgress("more");
  output.data("data\n");
  output.endProgress();
  assertEquals(terminal.text, "\rhalf\x1b[K\r\x1b[Ka message\n\rmore\x1b[K\r\x1b[Kdata\n");
});

Deno.test("a wait shows how long it has lasted and may last, until it is over", async () => {
  const shown = async (quiet: boolean, isTerminal: boolean): Promise<string> => {
    const over = Promise.withResolvers<string>();
    const stderr = new Recorder(isTerminal);
    const output = new Output(new Recorder(), stderr, () => 80);
    const what = "waiting for the guest to close xvdb";
    const wait = showWait({ output, quiet, what, timeoutMs: 60_000, tickMs: 1 }, over.promise);
    while (!quiet && isTerminal && stderr.text === "") await new Promise((resolve) => setTimeout(resolve, 1));
    over.resolve("closed");
    assertEquals(await wait, "closed");
    return stderr.text;
  };
  assertEquals(await shown(false, true), "\rwaiting for the guest to close xvdb: 0 s of 60 s\x1b[K\r\x1b[K");
  assertEquals([await shown(true, true), await shown(false, false)], ["", ""]);
});

Deno.test("the time left follows from the share that is done, once that says something", () => {
  assertEquals([timeLeft(0.5, 1_000), timeLeft(0, 10_000), timeLeft(0.25, 10_000)], ["", "", ", 30 s left"]);
  assertEquals([timeLeft(0.01, 60_000), timeLeft(0.001, 60_000)], [", 99 min left", ", 17 h left"]);
});

Deno.test("an expected error is one line with its remedy, and has its status", () => {
  const stderr = new Recorder();
  const error = new XenblkError("Cannot find domain web\n1", { kind: "not-found", remedy: "see xl list" });
  assertEquals(reportError(error, new Output(new Recorder(), stderr), PLAIN), 3);
  assertEquals(stderr.text, "xenblk: Cannot find domain web\\x0a1; see xl list\n");
});

Deno.test("an error names a disk as xl and list do", () => {
  const error = new XenblkError("Cannot read image a.img: xenblk serves it to vbd3/5/51712", { remedy: "end that" });
  for (const json of [false, true]) {
    const stderr = new Recorder();
    reportError(error, new Output(new Recorder(), stderr), { verbose: false, json });
    assertStringIncludes(stderr.text, "xenblk serves it to xvda of domain 5");
  }
});

Deno.test("an expected error shows no stack, even when asked for details", () => {
  const stderr = new Recorder();
  reportError(new XenblkError("Cannot x", { cause: new Error("deeper") }), new Output(new Recorder(), stderr), VERBOSE);
  assertEquals(stderr.text, "xenblk: Cannot x\n");
});

Deno.test("each error of xenstored is expected, of status 5, and says what to do", () => {
  for (const code of ["EACCES", "EPERM", "ENOSPC", "E2BIG", "EAGAIN", "EINVAL", "EIO", "EDISCONNECTED"]) {
    const stderr = new Recorder();
    const error = new XenstoreError("Cannot write /a: no", code, "/a");
    assertEquals(reportError(error, new Output(new Recorder(), stderr), VERBOSE), 5, code);
    assertMatch(stderr.text, /^xenblk: Cannot write \/a: no; [^;]+[^.]\n$/);
  }
});

Deno.test("an expected error during the clean-up after another one is no defect", () => {
  const stderr = new Recorder();
  const store = new XenstoreError("Cannot remove /a: gone", "EDISCONNECTED", "/a");
  const error = new SuppressedError(store, new XenblkError("Cannot attach", { kind: "timeout" }));
  assertEquals(reportError(error, new Output(new Recorder(), stderr), PLAIN), 4);
  assertEquals(stderr.text, "xenblk: Cannot attach (and then: Cannot remove /a: gone)\n");
  assertEquals(reportError(new SuppressedError(new TypeError("x"), store), new Output(stderr, stderr), PLAIN), 1);
});

Deno.test("an unexpected error is called a defect, and shows its stack and causes when asked", () => {
  const [plain, verbose] = [new Recorder(), new Recorder()];
  const error = new TypeError("x is undefined", { cause: new Error("deeper") });
  assertEquals(reportError(error, new Output(new Recorder(), plain), PLAIN), 1);
  assertEquals(plain.text, "xenblk: x is undefined; this is a defect; please report it with the output of -v\n");
  reportError(error, new Output(new Recorder(), verbose), VERBOSE);
  assertStringIncludes(verbose.text, "output_test.ts");
  assert(verbose.text.includes("Error: deeper"));
});

Deno.test("for programs an error is one line of JSON, a defect too, after its stack", () => {
  const asJson = (error: unknown, verbose = false): { status: number; lines: string[] } => {
    const stderr = new Recorder();
    const status = reportError(error, new Output(new Recorder(), stderr), { verbose, json: true });
    return { status, lines: stderr.text.trimEnd().split("\n") };
  };
  const missing = asJson(new XenblkError("Cannot find domain web\n1", { kind: "not-found", remedy: "see xl list" }));
  assertEquals([missing.status, missing.lines.length], [3, 1]);
  assertEquals(JSON.parse(missing.lines[0]!), {
    error: { kind: "not-found", exitStatus: 3, message: "Cannot find domain web\n1", remedy: "see xl list" },
  });
  const ended = asJson(new EndedBySignal("Cannot convert a.img", "SIGHUP"));
  assertEquals(ended.status, 129);
  assertEquals(ended.lines, [
    '{"error":{"kind":"failed","exitStatus":129,"message":"Cannot convert a.img: ended by SIGHUP"}}',
  ]);
  const defect = asJson(new TypeError("x is undefined"), true);
  assertEquals([defect.status, JSON.parse(defect.lines.at(-1)!).error.kind], [1, "defect"]);
  assertStringIncludes(defect.lines[0]!, "TypeError: x is undefined");
});

Deno.test("a table that is too wide for the terminal leaves out columns, then shortens and wraps texts", () => {
  const columns = [
    { heading: "NAME", cut: "end" },
    { heading: "STATE", leaveOut: 2 },
    { heading: "KIND", leaveOut: 1 },
    { heading: "IMAGE", cut: "start" },
  ] as const;
  const rows = [
    ["a-guest-with-a-name", "Connected", "vbd3", "/srv/images/guests/web.img"],
    ["", "", "", "error: Cannot open image web.img: there is no such file"],
  ];
  const lines = (width?: number): string[] => renderTable(columns, rows, false, width).split("\n").slice(0, -1);
  assertEquals(lines(), [
    "a-guest-with-a-name  Connected  vbd3  /srv/images/guests/web.img",
    "                                      error: Cannot open image web.img: there is no such file",
  ]);
  assertEquals(lines(60)[0], "a-guest-with-a-name  Connected  vbd3  …images/guests/web.img");
  assertEquals(lines(40), [
    "a-guest-with-a…  Connected  …sts/web.img",
    "    error: Cannot open image web.img:",
    "    there is no such file",
  ]);
  assertEquals(lines(26)[0], "a-guest-wit…  …sts/web.img");
  const fix = [{ heading: "CHECK" }, { heading: "DETAIL", cut: "wrap" }] as const;
  assertEquals(renderTable(fix, [["disk", "one two three four"]], false, 16), "disk  one two\n      three four\n");
});

Deno.test("the width is that of the terminal that a text goes to", () => {
  const [terminal, pipe] = [new Recorder(true), new Recorder(false)];
  const both = (stdout: ByteSink, stderr: ByteSink): number[] => {
    const output = new Output(stdout, stderr, () => 60);
    return [output.columns, output.messageColumns];
  };
  assertEquals(both(terminal, pipe), [60, Infinity]);
  assertEquals(both(pipe, terminal), [Infinity, 60]);
});

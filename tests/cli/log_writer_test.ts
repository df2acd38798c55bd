/**
 * Lines of the log on their way to systemd's journal: records with the disk in fields, once the platform is open, and
 * lines of stderr where a record does not get through.
 */

import { assertEquals } from "@std/assert";
import { NativePlatform } from "../../ffi/platform.ts";
import { EAGAIN } from "../../lib/errno.ts";
import { LogWriter } from "../../lib/cli/log_writer.ts";
import { Output } from "../../lib/cli/output.ts";
import { Recorder } from "./recorder.ts";

const { dev, ino } = Deno.statSync("/proc/self/fd/2");
const IN_JOURNAL = { JOURNAL_STREAM: `${dev}:${ino}` };
const GUESTS = new Map([[5, "web\n"]]);

/** A platform whose system takes datagrams as the test says. */
class Listening extends NativePlatform {
  readonly received: string[] = [];
  hasRoom = true;
  override readonly sendDatagram = (socket: string, bytes: Uint8Array): number => {
    if (!this.hasRoom) return -EAGAIN;
    this.received.push(`${socket}\n${new TextDecoder().decode(bytes)}`);
    return 0;
  };
}

/** A writer, what it wrote to stderr, and the platform that its command opens. */
interface Rig {
  readonly writer: LogWriter;
  readonly stderr: Recorder;
  readonly platform: Listening;
  readonly open: () => Promise<unknown>;
}

function rig(environment: Record<string, string>): Rig {
  const stderr = new Recorder();
  const output = new Output(new Recorder(), stderr);
  const platform = new Listening();
  const writer = new LogWriter({
    output,
    environment: (name) => environment[name],
    keepsRunning: true,
    guests: GUESTS,
  });
  const open = (): Promise<unknown> =>
    writer.through({ openNativePlatform: () => Promise.resolve(platform) }).openNativePlatform();
  return { writer, stderr, platform, open };
}

Deno.test("a line about a disk is a record of the journal with its guest and virtual device", async () => {
  const { writer, stderr, platform, open } = rig(IN_JOURNAL);
  writer.write("info", "looking");
  assertEquals(stderr.text, "<6>looking\n", "before the platform is open");
  await open();
  writer.write("warning", "vbd3/5/51728 queue 1: no room in vbd3/6/51712");
  writer.write("info", "serving all of kind vbd3");
  assertEquals(platform.received, [
    [
      "/run/systemd/journal/socket",
      "MESSAGE=xvdb of web\\x0a (domain 5), queue 1: no room in xvda of domain 6",
      "PRIORITY=4",
      "SYSLOG_IDENTIFIER=xenblk",
      "XENBLK_KIND=vbd3",
      "XENBLK_DOMAIN=5",
      "XENBLK_GUEST=web\\x0a",
      "XENBLK_VDEV=xvdb",
      "",
    ].join("\n"),
    "/run/systemd/journal/socket\nMESSAGE=serving all of kind vbd3\nPRIORITY=6\nSYSLOG_IDENTIFIER=xenblk\n",
  ]);
  assertEquals(stderr.text, "<6>looking\n");
});

Deno.test("a record that the journal does not take becomes a line of stderr", async () => {
  const { writer, stderr, platform, open } = rig(IN_JOURNAL);
  await open();
  platform.hasRoom = false;
  writer.write("error", "vbd3/6/51712: gone");
  assertEquals(stderr.text, "<3>xvda of domain 6: gone\n");
});

Deno.test("where stderr is not the journal, no record is made, whatever the form", async () => {
  for (const format of ["auto", "journal", "json"]) {
    const { writer, platform, open } = rig({ JOURNAL_STREAM: `${dev}:1${ino}`, XENBLK_LOG_FORMAT: format });
    await open();
    writer.write("info", "vbd3/6/51712: gone");
    assertEquals(platform.received, []);
  }
});

Deno.test("a line of JSON has the disk in members", () => {
  const { writer, stderr } = rig({ ...IN_JOURNAL, XENBLK_LOG_FORMAT: "json" });
  writer.write("info", "vbd3/5/51712: gone");
  const { time: _time, ...line } = JSON.parse(stderr.text);
  assertEquals(line, {
    level: "info",
    message: "xvda of web\\x0a (domain 5): gone",
    kind: "vbd3",
    domain: 5,
    guest: "web\\x0a",
    vdev: "xvda",
  });
});

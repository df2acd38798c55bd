/**
 * The log: levels, one printable line per record whatever a guest wrote, labels, and the bound per guest and minute.
 */

import { assert, assertEquals } from "@std/assert";
import type { DomId } from "../lib/hypervisor.ts";
import { createLogger, labelled, type Logger, startLogging } from "../lib/log.ts";
import { LogLimiter } from "../lib/rate_limit.ts";

const GUEST = 5 as DomId;
const OTHER = 6 as DomId;

function recorder(): { logger: Logger; lines: string[] } {
  const lines: string[] = [];
  const at = (level: string) => (line: string): void => void lines.push(`${level} ${line}`);
  return { lines, logger: { debug: at("debug"), info: at("info"), warning: at("warning"), error: at("error") } };
}

Deno.test("lines of the chosen level and above are written, with their level except for info", async () => {
  const lines: string[] = [];
  using _logging = await startLogging("info", (line) => lines.push(line));
  const logger = labelled(createLogger("test"), "vbd3/5/51712");
  logger.debug("a");
  logger.info("b");
  logger.warning("c");
  logger.error("d");
  assertEquals(lines, ["vbd3/5/51712: b", "warning: vbd3/5/51712: c", "error: vbd3/5/51712: d"]);
});

Deno.test("a guest's text can't forge lines, terminal sequences or placeholders, and is cut when overlong", async () => {
  const lines: string[] = [];
  using _logging = await startLogging("info", (line) => lines.push(line));
  const logger = createLogger("test");
  logger.info("protocol {x} {{y}} \n error: forged\x1b[2J\u2028\x9b\u202egpj.exe");
  assertEquals(lines, ["protocol {x} {{y}} \\x0a error: forged\\x1b[2J\\x2028\\x9b\\x202egpj.exe"]);
  logger.info("x".repeat(100_000));
  assert(lines[1]!.length <= 1001);
});

Deno.test("a guest gets so many lines a minute, then one that counts what was kept back; others are not affected", () => {
  let now = 0;
  const { logger, lines } = recorder();
  const limiter = new LogLimiter(logger, () => now, 3);
  const guest = limiter.forGuest(GUEST);
  const sameGuest = limiter.forGuest(GUEST);
  for (let i = 0; i < 1_000_000; i++) (i % 2 === 0 ? guest : sameGuest).warning(`bad ${i}`);
  limiter.forGuest(OTHER).info("fine");
  assertEquals(lines, ["warning bad 0", "warning bad 1", "warning bad 2", "info fine"]);
  now = 60_000;
  guest.error("again");
  assertEquals(lines.slice(4), ["warning domain 5: suppressed 999997 log lines", "error again"]);
});

Deno.test("forgetting a guest says what was kept back once; a later guest of that number starts afresh in a minute", () => {
  let now = 0;
  const { logger, lines } = recorder();
  const limiter = new LogLimiter(logger, () => now, 1);
  const guest = limiter.forGuest(GUEST);
  guest.info("a");
  guest.info("b");
  limiter.forget(GUEST);
  limiter.forget(GUEST);
  assertEquals(lines, ["info a", "warning domain 5: suppressed 1 log lines"]);
  now = 60_000;
  limiter.forget(OTHER);
  guest.info("c");
  assertEquals(lines.slice(2), ["info c"]);
});

Deno.test("a guest that comes and goes causes no more lines than one that stays", () => {
  let now = 0;
  const { logger, lines } = recorder();
  const limiter = new LogLimiter(logger, () => now, 3);
  for (let visit = 0; visit < 1000; visit++) {
    const guest = limiter.forGuest(GUEST);
    for (let i = 0; i < 10; i++) guest.warning("bad");
    limiter.forget(GUEST);
    now += 50; // 50 seconds altogether
  }
  assertEquals(lines.length, 4);
});

Deno.test("lines of one level do not use up the allowance of another: sixteen disks that connect hide no error", () => {
  const { logger, lines } = recorder();
  const guest = new LogLimiter(logger, () => 0, 1).forGuest(GUEST);
  for (let i = 0; i < 16; i++) {
    guest.debug("state");
    guest.info("connected");
    guest.warning("odd");
  }
  guest.error("image missing");
  assertEquals(lines, ["debug state", "info connected", "warning odd", "error image missing"]);
});

/**
 * INT, TERM and HUP, each in a process of its own: the first asks for an orderly end, the second ends at once.
 * The processes are small programs of the test.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";

/** A program that reports when it listens and when it was asked to end, and then never ends by itself. */
const PROGRAM = `
  import { DrainSignals } from "${ROOT}lib/cli/signals.ts";
  const signals = new DrainSignals();
  setInterval(() => {}, 1000);
  console.log("ready");
  console.log(await signals.drain, signals.received, signals.signal.aborted);
  if (Deno.args[0] === "end") { signals[Symbol.dispose](); Deno.exit(0); }
`;

async function lines(child: Deno.ChildProcess, wanted: readonly (() => void)[]): Promise<string> {
  let text = "";
  let step = 0;
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    while (step < text.split("\n").length - 1) wanted[step++]?.();
  }
  return text;
}

function start(mode: string): Deno.ChildProcess {
  const args = ["eval", "--ext=ts", PROGRAM, mode];
  return new Deno.Command(Deno.execPath(), { args, stdout: "piped", stderr: "inherit" }).spawn();
}

for (const [signal, status] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const) {
  Deno.test(`the first ${signal} drains`, async () => {
    const child = start("end");
    const text = await lines(child, [() => child.kill(signal)]);
    assertEquals(text, `ready\n${signal} ${signal} true\n`);
    assertEquals((await child.status).code, 0);
  });

  Deno.test(`a second ${signal} ends the process with ${status}`, async () => {
    const child = start("hang");
    const kill = (): void => child.kill(signal);
    await lines(child, [kill, kill]);
    assertEquals((await child.status).code, status);
  });
}

/**
 * A verb of the command in a process that has loaded all it needs before it is told which: so the time from the order to
 * the verb's end is the verb's. Standard output: `ready`, then the verb's. Standard input: the arguments, as JSON in one line.
 */

import { CATALOG } from "../../../../lib/cli/catalog.ts";
import { main } from "../../../../lib/cli/main.ts";
import { openNativePlatform } from "../../../../native.ts";

await Promise.all(CATALOG.map(({ load }) => load()));
await import("../../../../ffi/platform.ts");
Deno.stdout.writeSync(new TextEncoder().encode("ready\n"));
let line = "";
for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  line += text;
  if (line.endsWith("\n")) break;
}
Deno.exit(await main(JSON.parse(line), { openNativePlatform }, "0.0.0"));

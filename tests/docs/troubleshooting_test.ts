/**
 * docs/troubleshooting.md matches the messages in the sources. troubleshooting.ts writes it.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { messagesOf } from "./messages.ts";
import { TROUBLESHOOTING, troubleshooting } from "./troubleshooting.ts";

Deno.test("docs/troubleshooting.md is up to date (else: deno task docs)", async () => {
  const page = Deno.readTextFileSync(ROOT + TROUBLESHOOTING);
  assertEquals(page, await troubleshooting());
  assertMatch(page, /^## .*detach.*\n\n[^#]*unmount it in the guest/m);
  assertEquals(page.match(/^## .*\n\n[^\n]*(?:\n[^\n]+)*\n\n(?!- )/gm), null, "no symptom is without a message");
});

Deno.test("a message is found however it is written", () => {
  const source = `
    const VARIABLE = "XENBLK_X";
    function bad(why: string, remedy: string): Error { return new XenblkError(\`Cannot x: \${why}\`, { remedy }); }
    throw new XenblkError(\`Cannot open \${path}: it is gone\`, { remedy: \`set \${VARIABLE}\`, cause });
    throw new XenblkError("Cannot go", { ...(isRoot ? {} : { remedy: "run as root" }) });
    throw bad("it has a # in it", closed ? "open it" : "write %23");
    const check = "a part", fix = "mend it";
    return [{ check, standing: "fail", detail: "it broke " + (twice ? "twice" : "once"), fix }];
    throw new XenblkError("Cannot help");
  `;
  assertEquals(messagesOf("a.ts", source).map(({ text, remedy, check }) => [check, text, remedy]), [
    [undefined, "Cannot open …: it is gone", "set XENBLK_X"],
    [undefined, "Cannot go", "run as root"],
    ["a part", "it has a # in it", "open it; or write %23"],
    ["a part", "it broke twice or once", "mend it"],
  ]);
});

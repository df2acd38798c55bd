/**
 * Memory that only the start of a process needed is given back, and only such: the program goes on as before.
 */

import { assert, assertEquals } from "@std/assert";
import { codeOf } from "../../ffi/linux/resident.ts";
import { runScript } from "./child.ts";

const MAPS = `
3c2e8c0000-3c2e900000 rw-p 00000000 00:00 0
5555aa000000-5555abb00000 r--p 00000000 fe:01 1234                       /usr/lib/xenblk/deno
5555abb00000-5555afc00000 r-xp 01aff000 fe:01 1234                       /usr/lib/xenblk/deno
5555afc00000-5555afe00000 r--p 05bfe000 fe:01 1234                       /usr/lib/xenblk/deno
5555afe00000-5555aff00000 rw-p 05dfd000 fe:01 1234                       /usr/lib/xenblk/deno
5555b0000000-5555b0c00000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000028000 r--p 00000000 fe:01 99                         /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000028000-7f00001b0000 r-xp 00028000 fe:01 99                         /usr/lib/x86_64-linux-gnu/libc.so.6
7f8000000000-7f8001000000 r-xp 00000000 00:00 0
7f9000000000-7f9010000000 r--s 00000000 fe:01 55                         /srv/a file with spaces
7fff00000000-7fff00002000 r-xp 00000000 00:00 0                          [vdso]
`;

Deno.test("what may be dropped is the program's code and its beginning, nothing that was ever written", () => {
  assertEquals(codeOf(MAPS), [
    { start: 0x5555aa000000n, end: 0x5555abb00000n },
    { start: 0x5555abb00000n, end: 0x5555afc00000n },
  ]);
  assertEquals(codeOf(MAPS.replaceAll("/usr/lib/xenblk/deno", "/opt/my deno")).length, 2);
  assertEquals(codeOf(""), []);
  assertEquals(codeOf("nonsense\n"), []);
});

Deno.test("a process gives pages of its code back, and its threads run on", async () => {
  const script = `
    import { releaseUnused } from "./ffi/linux/resident.ts";
    const fileKiB = () => Number(/RssFile:\\s+(\\d+)/.exec(Deno.readTextFileSync("/proc/self/status"))[1]);
    const source = "onmessage = ({ data }) => postMessage(JSON.stringify(data.map((x) => x * 2)))";
    const worker = new Worker("data:text/javascript," + encodeURIComponent(source), { type: "module" });
    const answer = () => new Promise((resolve) => { worker.onmessage = ({ data }) => resolve(data); worker.postMessage([1, 2]); });
    const answers = [await answer()];
    const before = fileKiB();
    releaseUnused();
    const after = fileKiB();
    answers.push(await answer(), new Intl.NumberFormat("en").format(12345), /a(b+)/.exec("abb")[1]);
    releaseUnused();
    console.log(JSON.stringify({ before, after, answers }));
    worker.terminate();
  `;
  const { code, stdout, stderr } = await runScript(script, ["-A", "--no-check"]);
  assertEquals([code, stderr], [0, ""]);
  const { before, after, answers } = JSON.parse(stdout);
  assert(after < before / 1.5, `${before} KiB of files, then ${after}`);
  assertEquals(answers, ["[2,4]", "[2,4]", "12,345", "bb"]);
});

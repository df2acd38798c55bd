/**
 * How filters are named: what a text and an object stand for, and that each mistake is a usage error that says what would
 * be right.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { EIO } from "../../../lib/errno.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { chooseFilters, type FilterChoice } from "../../../lib/storage/filter/spec.ts";
import { FilterRig, pass } from "./rig.ts";

/** A module beside this one, as an operator would name it. */
const OUTSIDE = new URL("./modules/flipping_filter.ts", import.meta.url);

async function refusal(choice: FilterChoice): Promise<string> {
  const error = await assertRejects(() => chooseFilters([choice]), XenblkError);
  assertEquals(error.kind, "usage", error.message);
  return error.line;
}

Deno.test("a mistake in a filter's name or options is a usage error", async () => {
  const cases: Readonly<Record<string, string>> = {
    "": 'Cannot use filter "": there is none of that name; use one of ',
    "readonlie": 'Cannot use filter "readonlie": there is none of that name; use one of ',
    "__proto__": 'Cannot use filter "__proto__": there is none of that name; use one of ',
    "readonly,x=1": "Cannot use filter readonly: it has no option x; it has none",
    "readonly,to-string=1": "Cannot use filter readonly: it has no option to-string; it has none",
    "throttle,bytes-per-minute=1": "Cannot use filter throttle: it has no option bytes-per-minute; it has iops, " +
      "iops-burst, bytes-per-second, bytes-burst",
    "throttle,iops-burst=x": "Cannot use filter throttle: iops-burst takes ",
    "readonly,": 'Cannot use filter readonly: "" is not option=value',
    "readonly,=3": 'Cannot use filter readonly: "=3" is not option=value',
  };
  for (const [text, message] of Object.entries(cases)) {
    const said = await refusal(text);
    assertEquals(said.slice(0, message.length), message);
  }
});

Deno.test("a mistake in a program's object is named as the object spells it", async () => {
  const choice = { name: "throttle", iopsBurst: -1 } as const;
  assertEquals((await refusal(choice)).startsWith("Cannot use filter throttle: iopsBurst takes "), true);
});

Deno.test("a module from outside is a filter, named by its path or its URL, with options of its own", async () => {
  const [byPath, byUrl, byObject] = await chooseFilters([
    `${OUTSIDE.pathname},mask=3`,
    OUTSIDE.href,
    { name: OUTSIDE.href as `${string}:${string}`, mask: 9 },
  ]);
  assertEquals([byPath!, byUrl!, byObject!].map(({ module, values }) => [module, values]), [
    [OUTSIDE.href, { mask: 3 }],
    [OUTSIDE.href, { mask: 255 }],
    [OUTSIDE.href, { mask: 9 }],
  ]);
  assertEquals(
    await refusal(`${OUTSIDE.pathname},mask=256`),
    `Cannot use filter ${OUTSIDE.pathname}: mask takes a whole number from 0 to 255, not "256"`,
  );
});

Deno.test("a module that is missing or no filter is refused by its name", async () => {
  assertEquals(
    await refusal("./none/there.ts"),
    "Cannot use filter ./none/there.ts: there is no such file; name its module's file, by an absolute path or one " +
      `relative to ${Deno.cwd()}`,
  );
  await assertRejects(() => chooseFilters(["https:nowhere"]), XenblkError, "Cannot load module https:nowhere");
  const noFilter = new URL("../../dataplane/modules/masked_disk.ts", import.meta.url).pathname;
  assertEquals((await refusal(noFilter)).includes("its module exports no `filter`"), true);
});

Deno.test("the filter that docs/filters.md shows is this one, and works", async () => {
  const read = (path: string): string => Deno.readTextFileSync(new URL(path, import.meta.url));
  const [, shown] = /```ts ignore\n(import.*?)```/s.exec(read("../../../docs/filters.md"))!;
  const code = read("./modules/bad_sector_filter.ts").replace(/^\/\*\*.*?\*\/\n/s, "").replaceAll(
    "../../../../mod.ts",
    "xenblk",
  );
  const words = (text: string): string => text.replaceAll(/[\s,]/g, "");
  assertEquals(words(code), words(shown!));
  const path = new URL("./modules/bad_sector_filter.ts", import.meta.url).pathname;
  await using rig = await FilterRig.open([`${path},sector=9`]);
  for (const [tag, lengthBytes] of [[0, 512], [1, 1024]] as const) rig.ring.read(tag, 4096, [lengthBytes]);
  rig.ring.write(2, 4608, [512]);
  assertEquals(pass(rig.ring), new Map([[0, 0], [2, 0], [1, -EIO]]));
  assertEquals(await refusal(path), `Cannot use filter ${path}: it needs sector: The sector`);
});

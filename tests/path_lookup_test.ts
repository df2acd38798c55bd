/**
 * Looks at paths whose file system does not answer: they end in time, they are few at once, and later looks work again
 * once the file system has answered.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { lookWithin, NoAnswerError } from "../lib/path_lookup.ts";

Deno.test("a look that is not answered ends in time, and an answer is passed on", async () => {
  const answer = Promise.withResolvers<number>();
  const late = lookWithin("/mnt/dead", () => answer.promise, 1);
  const error = await assertRejects(() => late, NoAnswerError, "Cannot look at /mnt/dead: its file system has not");
  assertEquals(error.remedy?.includes("file server"), true);
  let calls = 0;
  const again = (): Promise<number> => Promise.resolve(++calls);
  await assertRejects(() => lookWithin("/mnt/dead", again), NoAnswerError, "has not answered an earlier call");
  assertEquals(calls, 0);
  answer.resolve(1);
  await answer.promise;
  await Promise.resolve();
  assertEquals(await lookWithin("/mnt/dead", again), 1);
  assertEquals(await lookWithin("/mnt/alive", () => Promise.resolve(7)), 7);
  const failing = lookWithin("/mnt/alive", () => Promise.reject(new Error("as it is")));
  await assertRejects(() => failing, Error, "as it is");
});

Deno.test("at most eight looks are overdue at one time; the next is refused without a call", async () => {
  const answers = Array.from({ length: 8 }, () => Promise.withResolvers<void>());
  await Promise.all(
    answers.map(({ promise }, index) =>
      assertRejects(() => lookWithin(`/mnt/dead/${index}`, () => promise, 1), NoAnswerError)
    ),
  );
  let calls = 0;
  const look = (): Promise<number> => Promise.resolve(++calls);
  await assertRejects(
    () => lookWithin("/srv/a", look),
    NoAnswerError,
    "8 other calls have not returned yet",
  );
  assertEquals(calls, 0);
  answers[0]!.resolve();
  await answers[0]!.promise;
  await Promise.resolve();
  assertEquals(await lookWithin("/srv/a", look), 1);
  for (const { resolve } of answers) resolve();
});

/**
 * A hostile guest does not disturb its neighbours on the same Worker: broken rings, floods of bad requests,
 * notifications without work, and guests that die with requests in flight.
 */

import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { ERROR, OKAY, READ, WRITE } from "./rows.ts";
import { ABI_NAMES, GRANT_MODES } from "./world.ts";
import { type Guest, Host, until } from "./neighbours.ts";

/** When a guest dies: at once, after a pass over its ring, after the first responses. */
const MOMENTS: readonly ((guest: Guest) => boolean)[] = [
  () => true,
  ({ stats }) => stats.passes > 0,
  (guest) => guest.takeAnswers().length > 0,
];

const BAD_REQUESTS = 30_000;
const KICKS = 20_000;

async function assertServed(guest: Guest): Promise<void> {
  const statuses = (await guest.ask(guest.request(WRITE), guest.request(READ))).map(({ status }) => status);
  assertEquals(statuses, [OKAY, OKAY]);
}

for (const abi of ABI_NAMES) {
  Deno.test(`rings with impossible indices stop, and the neighbour is served, ${abi}`, async () => {
    await using host = new Host();
    const good = await host.guest(1);
    for (const [domain, leap] of [[2, 33], [3, -1], [4, 2 ** 31]] as const) {
      const bad = await host.guest(domain, "copy", abi);
      await assertServed(bad);
      bad.publish(2 + leap);
      assertMatch(await bad.queue.stopped, /impossible/);
      for (let again = 0; again < 100; again++) bad.publish(2 + leap + again);
      await assertServed(good);
      await bad.queue.close();
    }
    assertEquals(host.warnings, [], "only the ring's handle reports the reason");
    await good.queue.close();
    assertEquals(host.usage.mappedPages, 0);
  });
}

Deno.test(`${BAD_REQUESTS} bad requests log a bounded number of lines, and the neighbour is served meanwhile`, async () => {
  await using host = new Host();
  const good = await host.guest(1);
  const bad = await host.guest(2);
  const start = performance.now();
  let served = 0;
  let flooding = true;
  const neighbour = (async () => {
    for (; flooding; served++) await assertServed(good);
  })();
  const wrong = (n: number) => {
    const change = n % 3 === 0 ? { sector: 1n << 60n } : n % 3 === 1 ? { segments: [] } : { count: 255 };
    return bad.request(n % 2 === 0 ? READ : WRITE, change);
  };
  for (let n = 0; n < BAD_REQUESTS; n += 32) {
    const answers = await bad.ask(...Array.from({ length: 32 }, (_, i) => wrong(n + i)));
    assert(answers.every(({ status }) => status === ERROR));
  }
  flooding = false;
  await neighbour;
  assert(served > 20, `the neighbour was served ${served} times`);
  const minutes = 2 + Math.floor((performance.now() - start) / 60_000);
  assertLess(host.warnings.length, 31 * minutes + 3, "30 lines a minute, and one that counts the others");
  assertLess(host.warnings.join("\n").length, 8192 * minutes);
});

Deno.test(`${KICKS} notifications without work cost at most a pass each, log nothing, and the neighbour is served`, async () => {
  await using host = new Host();
  const good = await host.guest(1);
  const idle = await host.guest(2);
  for (let kick = 0; kick < KICKS; kick++) {
    idle.kick();
    if (kick % 1000 === 0) await assertServed(good);
  }
  await assertServed(good);
  const { passes, notificationsSent } = idle.stats;
  assert(passes <= KICKS + 10, `${passes} passes`);
  assertEquals([notificationsSent, host.warnings.length], [0, 0]);
});

for (const grants of GRANT_MODES) {
  Deno.test(`guests that die with requests in flight leave no mapping behind, and the neighbour is served, ${grants}`, async () => {
    await using host = new Host();
    const good = await host.guest(1, grants);
    await assertServed(good); // before counting: its own pages may stay mapped
    const before = host.usage.mappedPages;
    for (let domain = 2; domain < 8; domain++) {
      const dying = await host.guest(domain, grants);
      dying.put(...Array.from({ length: 32 }, () => dying.request(domain % 2 ? READ : WRITE)));
      await until(`it is time for domain ${domain} to die`, () => MOMENTS[domain % MOMENTS.length]!(dying));
      dying.die();
      await dying.queue.close();
      assertEquals(host.usage.mappedPages, before, `domain ${domain}`);
      await assertServed(good);
    }
  });
}

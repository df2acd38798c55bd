/**
 * A journal is valid only for the ring that it was kept for: a guest that starts over with another ring, while no
 * process runs, must not get the old ring's requests carried out and answered on the new one.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { ABIS, OP_WRITE } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields } from "../../lib/blkif/front_ring.ts";
import { type Connection, openConnection } from "../../lib/dataplane/connection.ts";
import { journalBytes } from "../../lib/dataplane/journal.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { DomId, EvtchnPort, SharedPages } from "../../lib/hypervisor.ts";
import { newNonce } from "../../lib/nonce.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { openChannel } from "../../lib/storage/channel.ts";

const BACKEND = 0 as DomId;
const GUEST = 1 as DomId;
const ABI = ABIS["x86_64-abi"];
const SECTORS = 64;

interface Ring {
  readonly pages: SharedPages;
  readonly port: EvtchnPort;
}

Deno.test("requests in a journal are carried out again on the same ring and port, and on no other", () => {
  const machine = createMachine({ memoryBytes: 16 * 2 ** 20, domains: 2 });
  const back = openSimulatedPlatform(machine, BACKEND);
  const front = openSimulatedPlatform(machine, GUEST);
  using shares = front.openGrantShares();
  using events = front.openEventChannels(BACKEND);
  using journal = back.memory.allocate(journalBytes(32));
  const data = shares.share(BACKEND, 1, true);
  const [first, second] = [shares.share(BACKEND, 1, true), shares.share(BACKEND, 1, true)];
  const ports = [events.bindUnbound(BACKEND), events.bindUnbound(BACKEND)] as const;
  const [ring] = [first, second].map(({ view }) => FrontRing.initialise(view, ABI));
  const nonce = newNonce();
  const lines: string[] = [];
  const serve = ({ pages, port }: Ring, resume: boolean, act: (connection: Connection) => void): void => {
    using grants = back.openGrantTable(GUEST);
    using channels = back.openEventChannels(GUEST);
    using connection = openConnection(
      {
        label: "a ring",
        guest: GUEST,
        ringRefs: pages.refs,
        eventChannel: port,
        abi: "x86_64-abi",
        grants: "copy",
        attachment: { engine: "memory", data: new SharedArrayBuffer(SECTORS * 512), readOnly: false },
        properties: { sectors: SECTORS, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
        stats: createStats(),
        journal: { address: journal.address, nonce, resume },
      },
      back,
      { grants, events: channels },
      openChannel,
      (line) => lines.push(line),
    );
    act(connection);
  };
  let left: readonly Uint8Array[] = [];
  const taken = { pages: first, port: ports[0] };
  serve(taken, false, ({ queue }) => {
    const write = new RequestFields();
    write.operation = OP_WRITE;
    write.segmentCount = 1;
    write.grefs[0] = data.refs[0]!;
    for (let i = 0; i < 2; i++) ring!.putRequest(write);
    ring!.push();
    queue.step();
    assertEquals(queue.inFlight, 2);
    // What a process that is killed now leaves behind.
    left = [first.view.slice(), journal.view.slice()];
    while (queue.step() || queue.inFlight > 0);
  });
  const killed = (): void => [first, journal].forEach(({ view }, i) => view.set(left[i]!));
  for (const other of [{ pages: second, port: ports[0] }, { pages: first, port: ports[1] }]) {
    killed();
    serve(other, true, () => assertMatch(lines.pop()!, /there is no journal of this connection/));
  }
  killed();
  serve(taken, true, ({ queue }) => {
    assertEquals(lines, ["recovered after a crash: 2 requests are carried out again"]);
    while (queue.step() || queue.inFlight > 0);
    assertEquals(ring!.unconsumedResponses(), 2);
  });
});

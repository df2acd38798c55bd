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
import type {
  DomId,
  EventChannels,
  EvtchnPort,
  GrantShares,
  OwnedMemory,
  Platform,
  SharedPages,
} from "../../lib/hypervisor.ts";
import { newNonce } from "../../lib/nonce.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { memoryAttachment, openChannel } from "../../lib/storage/engine/memory.ts";

const BACKEND = 0 as DomId;
const GUEST = 1 as DomId;
const ABI = ABIS["x86_64-abi"];
const SECTORS = 64;

interface Ring {
  readonly pages: SharedPages;
  readonly port: EvtchnPort;
  readonly front: FrontRing;
}

/** One machine with a guest's rings and the memory of one journal. */
class Host implements Disposable {
  readonly lines: string[] = [];
  readonly #resources = new DisposableStack();
  readonly #back: Platform;
  readonly #nonce = newNonce();
  readonly journal: OwnedMemory;
  readonly shares: GrantShares;
  readonly #events: EventChannels;

  constructor() {
    const machine = createMachine({ memoryBytes: 16 * 2 ** 20, domains: 2 });
    const front = openSimulatedPlatform(machine, GUEST);
    this.#back = openSimulatedPlatform(machine, BACKEND);
    this.journal = this.#resources.use(this.#back.memory.allocate(journalBytes(32)));
    this.shares = this.#resources.use(front.openGrantShares());
    this.#events = this.#resources.use(front.openEventChannels(BACKEND));
  }

  ring(): Ring {
    const pages = this.shares.share(BACKEND, 1, true);
    return { pages, port: this.#events.bindUnbound(BACKEND), front: FrontRing.initialise(pages.view, ABI) };
  }

  /** Serves a ring with the journal, as one process does. */
  serve({ pages, port }: Pick<Ring, "pages" | "port">, resume: boolean, act: (connection: Connection) => void): void {
    const attachment = memoryAttachment(new SharedArrayBuffer(SECTORS * 512), false);
    using grants = this.#back.openGrantTable(GUEST);
    using events = this.#back.openEventChannels(GUEST);
    using connection = openConnection(
      {
        label: "a ring",
        guest: GUEST,
        ringRefs: pages.refs,
        eventChannel: port,
        abi: "x86_64-abi",
        grants: "copy",
        attachment,
        properties: { sectors: SECTORS, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
        stats: createStats(),
        journal: { address: this.journal.address, nonce: this.#nonce, resume },
      },
      this.#back,
      { grants, events },
      (_, options) => openChannel(attachment, options),
      (line) => this.lines.push(line),
    );
    act(connection);
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

Deno.test("requests in a journal are carried out again on the same ring and port, and on no other", () => {
  using host = new Host();
  const { journal, lines } = host;
  const data = host.shares.share(BACKEND, 1, true);
  const [first, second] = [host.ring(), host.ring()];
  const memory = [first.pages, journal];
  let left: readonly Uint8Array[] = [];
  host.serve(first, false, ({ queue }) => {
    const write = new RequestFields();
    write.operation = OP_WRITE;
    write.segmentCount = 1;
    write.grefs[0] = data.refs[0]!;
    for (let i = 0; i < 2; i++) first.front.putRequest(write);
    first.front.push();
    queue.step();
    assertEquals(queue.inFlight, 2);
    // What a process that is killed now leaves behind.
    left = memory.map(({ view }) => view.slice());
    while (queue.step() || queue.inFlight > 0);
  });
  const killed = (): void => memory.forEach(({ view }, i) => view.set(left[i]!));
  for (const other of [{ ...first, pages: second.pages }, { ...first, port: second.port }]) {
    killed();
    host.serve(
      other,
      true,
      () => assertMatch(lines.pop()!, /an earlier process left no journal, but the ring shows that no request is lost/),
    );
  }
  killed();
  host.serve(first, true, ({ queue }) => {
    assertEquals(lines, ["recovered after a crash: 2 requests are carried out again"]);
    while (queue.step() || queue.inFlight > 0);
    assertEquals(first.front.unconsumedResponses(), 2);
  });
});

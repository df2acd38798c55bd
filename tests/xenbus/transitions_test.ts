/**
 * What a backend decides: the whole table over the two states, row by row; the other columns; and then stories, carried
 * out by the simplest device that does what the table says.
 */

import { assert, assertEquals } from "@std/assert";
import type { ObservedState } from "../../lib/xenbus/states.ts";
import { decide, type Situation } from "../../lib/xenbus/transitions.ts";

const STATES: readonly ObservedState[] = ["gone", 0, 1, 2, 3, 4, 5, 6, 7, 8, "invalid"];
const MEANINGLESS: readonly ObservedState[] = [0, 7, 8, "invalid"];

/** An owner that has tried nothing yet. */
const FRESH = {
  resizeAsked: false,
  proven: true,
  owner: "us",
  image: "none",
  ring: "none",
  attempt: "fresh",
  intent: "serve",
  removalAsked: false,
} as const;

/** What this process holds: nothing, the image, or the image and the rings. */
const HELD = {
  nothing: { image: "none", ring: "none" },
  image: { image: "open", ring: "none" },
  ring: { image: "open", ring: "served" },
} as const;

/** Actions with nothing held, with the image open, and with the ring served. */
type Row = readonly [nothing: string, image: string, ring: string];

const same = (action: string): Row => [action, action, action];

/** Backend states to frontend states to actions, for a device that is online. */
type Table = readonly (readonly [backend: readonly ObservedState[], frontend: readonly ObservedState[], row: Row])[];

/** The rows that do not depend on `online`. */
const ALWAYS: Table = [
  [["gone"], STATES, same("teardown")],
  [[1], ["gone"], ["none", "teardown", "teardown"]],
  [[6], ["gone"], ["none", "teardown", "teardown"]],
  [[2, 3, 4, 5, ...MEANINGLESS], ["gone"], same("teardown")],
  [[1], [1, 2, 3, 4], ["offer", "offer", "offer"]],
  [[2, 3], [1, 2], ["open", "none", "offer"]],
  [[2, 3], [3, 4], ["open", "connect", "connect"]],
  [[4], [1, 2], ["offer", "offer", "offer"]],
  [[4], [3, 4], ["open", "connect", "none"]],
  [[1, 2, 3, 4], [5], same("close-begin")],
  [[1, 2, 3, 4, 5], [6], same("close")],
  [[1, 2, 3, 4], MEANINGLESS, same("unknown-state frontend")],
  [[5], [3], same("none")],
  [MEANINGLESS, [1, 2, 3, 4, 5, 6, ...MEANINGLESS], same("unknown-state backend")],
];

const ONLINE: Table = [
  [[5], [1, 2], same("offer")],
  [[5], [4, 5], same("none")],
  [[5], MEANINGLESS, same("unknown-state frontend")],
  [[6], [1, 2, 3], same("offer")],
  [[6], [4, 5, 6], ["none", "none", "close"]],
  [[6], MEANINGLESS, ["unknown-state frontend", "unknown-state frontend", "close"]],
];

/** With `online` 0: the toolstack wants the device removed. */
const OFFLINE: Table = [
  [[5], [1, 2], same("close")],
  [[5], [4, 5], ["open", "resume", "none"]],
  [[5], MEANINGLESS, ["close", "close", "unknown-state frontend"]],
  [[6], [1, 2, 3, 4, 5, 6], ["none", "teardown", "close"]],
  [[6], MEANINGLESS, ["unknown-state frontend", "teardown", "close"]],
];

function text(situation: Situation): string {
  const action = decide(situation);
  if (action.kind === "wait") return `wait for ${action.for}`;
  return action.kind === "unknown-state" ? `${action.kind} ${action.side}` : action.kind;
}

for (const [online, tables] of [[true, [ALWAYS, ONLINE]], [false, [ALWAYS, OFFLINE]]] as const) {
  const covered = new Set<string>();
  for (const [backends, frontends, [nothing, image, ring]] of tables.flat()) {
    Deno.test(`online ${Number(online)}, backend ${backends}, frontend ${frontends}: ${nothing}, ${image}, ${ring}`, () => {
      for (const backendState of backends) {
        for (const frontendState of frontends) {
          const nodes = { ...FRESH, backendState, frontendState, online };
          const actions = [HELD.nothing, HELD.image, HELD.ring].map((held) => text({ ...nodes, ...held }));
          assertEquals(actions, [nothing, image, ring], `backend ${backendState}, frontend ${frontendState}`);
          if (ring !== "connect") {
            assertEquals(text({ ...nodes, ring: "served" }), ring, "a ring counts without an image too");
          }
        }
      }
    });
    for (const backend of backends) {
      for (const frontend of frontends) {
        assert(!covered.has(`${backend} ${frontend}`), `${backend} ${frontend} is in two rows`);
        covered.add(`${backend} ${frontend}`);
      }
    }
  }
  Deno.test(`online ${Number(online)}: the rows above are all pairs of states`, () => {
    assertEquals(covered.size, STATES.length ** 2);
  });
}

/** A running device, both sides Connected, its ring served. */
const RUNNING = { ...FRESH, ...HELD.ring, backendState: 4, frontendState: 4, online: true } as const;
/** The frontend has published its rings. */
const ASKED = { ...RUNNING, ...HELD.image, backendState: 2, frontendState: 3 } as const;

const COLUMNS: readonly (readonly [what: string, situation: Situation, action: string])[] = [
  ["the nodes of a connection are written if that is all that is missing", { ...RUNNING, ring: "untold" }, "publish"],
  ["rings that were opened without writing Connected are opened again", { ...ASKED, ring: "untold" }, "connect"],
  ["a stopped ring is dropped", { ...RUNNING, ring: "stopped" }, "drop-ring"],
  ["a stopped ring is dropped while the device closes", { ...RUNNING, ring: "stopped", backendState: 5 }, "drop-ring"],
  ["a dead guest's stopped ring needs no word", { ...RUNNING, ring: "stopped", frontendState: "gone" }, "teardown"],
  ["a broken ring is not connected to again", { ...RUNNING, ring: "broken" }, "close-begin"],
  ["a broken ring is not resumed", { ...RUNNING, ring: "broken", backendState: 5, online: false }, "close"],
  ["a refused offer waits for a change", { ...FRESH, ...nodesAt(1, 1), attempt: "refused" }, "none"],
  ["so does a refused opening", { ...FRESH, ...nodesAt(2, 1), attempt: "refused" }, "none"],
  ["a refused frontend gets Closing", { ...ASKED, attempt: "refused" }, "close-begin"],
  ["a frontend waits for a busy image", { ...ASKED, attempt: "busy" }, "wait for image"],
  ["a frontend waits for an image that cannot be opened", { ...ASKED, image: "none", attempt: "refused" }, "none"],
  ["an image that the nodes no longer name is not connected", { ...ASKED, image: "changed" }, "open"],
  ["nor offered", { ...ASKED, frontendState: 1, image: "changed" }, "open"],
  ["a served disk's image is not simply replaced", { ...RUNNING, image: "changed" }, "change-image"],
  ["a resize comes before a changed image", { ...RUNNING, image: "changed", resizeAsked: true }, "resize"],
  ["a frontend that published another ring gets that one", { ...RUNNING, ring: "replaced" }, "connect"],
  ["a running guest keeps a device that is refused", { ...RUNNING, ...HELD.nothing, attempt: "refused" }, "none"],
  ["a running guest waits for a busy image", { ...RUNNING, ...HELD.nothing, attempt: "busy" }, "wait for image"],
  ["a resume that is refused ends in Closed", { ...FRESH, ...nodesAt(5, 4, false), attempt: "refused" }, "close"],
  ["whatever failed is retried later", { ...ASKED, attempt: "failed" }, "wait for retry"],
  ["what failed is forgotten where nothing is to be done", { ...RUNNING, attempt: "failed" }, "none"],
  ["a device is claimed before anything is done", { ...ASKED, owner: "nobody" }, "claim"],
  ["another process's device is left alone", { ...ASKED, owner: "other" }, "wait for owner"],
  ["another process's removed device is forgotten", { ...FRESH, ...nodesAt("gone", "gone"), owner: "other" }, "forget"],
  ["an unknown owner does not keep a frontend from closing", { ...FRESH, ...nodesAt(4, 6), owner: "unknown" }, "close"],
  ["an empty store ends nothing that is served", { ...RUNNING, ...nodesAt("gone", "gone"), proven: false }, "none"],
  ["a resize is carried out", { ...RUNNING, resizeAsked: true }, "resize"],
  ["closing comes before a resize", { ...RUNNING, frontendState: 6, resizeAsked: true }, "close"],
  ["a resize waits for a ring", { ...ASKED, frontendState: 1, resizeAsked: true }, "none"],
  ["detaching asks for removal", { ...RUNNING, intent: "detach" }, "request-removal"],
  ["detaching then waits for the guest", { ...RUNNING, ...nodesAt(5, 4, false), intent: "detach" }, "none"],
  ["detaching claims first", { ...FRESH, ...nodesAt(6, 6), owner: "nobody", intent: "detach" }, "claim"],
  ["another process's device is not detached", { ...ASKED, owner: "other", intent: "detach" }, "none"],
  ["nor is one whose owner is unknown", { ...ASKED, owner: "unknown", intent: "detach" }, "none"],
  ["in the end the guest is not waited for", { ...RUNNING, ...nodesAt(5, 4, false), intent: "detach-now" }, "close"],
  ["in the end removal is asked for too", { ...RUNNING, intent: "detach-now" }, "request-removal"],
  [
    "a disk that is attached again stays",
    { ...FRESH, ...nodesAt(1, 1), intent: "detach-now", removalAsked: true },
    "none",
  ],
  ["a disk that is attached again stays, with its old ring", {
    ...RUNNING,
    ...nodesAt(1, 1),
    intent: "detach",
    removalAsked: true,
  }, "none"],
  ["what was never offered is removed", { ...FRESH, ...nodesAt(1, 1), intent: "detach-now" }, "request-removal"],
  ["in the end another process's device stays", { ...ASKED, owner: "other", intent: "detach-now" }, "none"],
];

function nodesAt(
  backendState: ObservedState,
  frontendState: ObservedState,
  online = true,
): Pick<Situation, "backendState" | "frontendState" | "online"> {
  return { backendState, frontendState, online };
}

for (const [what, situation, action] of COLUMNS) {
  Deno.test(`${what}: ${action}`, () => assertEquals(text(situation), action));
}

/** A device that does what the table says, without a disk or a ring; a process that can be restarted. */
class Device {
  backendState: ObservedState = 1;
  frontendState: ObservedState = 1;
  online = true;
  image: Situation["image"] = "none";
  ring: "none" | "served" = "none";
  /** What was done, in order. */
  readonly done: string[] = [];

  /** Looks and acts until there is nothing to do; returns what it did. */
  goOn(): string[] {
    const before = this.done.length;
    for (let turn = 0; turn < 10; turn++) {
      const { kind } = decide(this.situation);
      if (kind === "none" || kind === "unknown-state") return this.done.slice(before);
      this.done.push(kind);
      this.#act(kind);
    }
    throw new Error(`does not come to rest: ${this.done.slice(before)}`);
  }

  get situation(): Situation {
    const { backendState, frontendState, online, image, ring } = this;
    return { ...FRESH, backendState, frontendState, online, image, ring };
  }

  get connected(): boolean {
    return this.ring === "served";
  }

  #act(kind: string): void {
    switch (kind) {
      case "offer":
        [this.ring, this.backendState] = ["none", 2];
        break;
      case "open":
        this.image = "open";
        break;
      case "connect":
        [this.ring, this.backendState] = ["served", 4];
        break;
      case "resume":
        this.ring = "served";
        break;
      case "close-begin":
        this.backendState = 5;
        break;
      default:
        [this.image, this.ring] = ["none", "none"];
        if (this.backendState !== "gone") this.backendState = 6;
    }
  }

  /** The process ends and another begins, leaving the nodes as they are. */
  restart(): void {
    this.image = "none";
    this.ring = "none";
  }

  frontend(state: ObservedState): string[] {
    this.frontendState = state;
    return this.goOn();
  }

  toolstackRemoves(): string[] {
    this.online = false;
    this.backendState = 5;
    return this.goOn();
  }
}

function connected(): Device {
  const device = new Device();
  device.goOn();
  device.frontend(3);
  device.frontend(4);
  return device;
}

Deno.test("a handshake, step by step", () => {
  const device = new Device();
  assertEquals([device.goOn(), device.backendState], [["offer", "open"], 2]);
  assertEquals([device.frontend(3), device.backendState], [["connect"], 4]);
  assertEquals([device.frontend(4), device.backendState], [[], 4]);
});

Deno.test("a frontend that is at 3 or 4 before the backend is at 2 is connected all the same", () => {
  for (const early of [3, 4] as const) {
    const device = new Device();
    assertEquals([device.frontend(early), device.backendState], [["offer", "open", "connect"], 4]);
  }
});

Deno.test("a frontend that closes and starts again is offered and connected again, as often as it likes", () => {
  const device = connected();
  for (let round = 0; round < 3; round++) {
    assertEquals([device.frontend(5), device.backendState, device.connected], [["close-begin"], 5, true]);
    assertEquals([device.frontend(6), device.backendState, device.image], [["close"], 6, "none"]);
    assertEquals([device.frontend(1), device.backendState], [["offer", "open"], 2]);
    assertEquals([device.frontend(3), device.backendState], [["connect"], 4]);
    assertEquals(device.frontend(4), []);
  }
});

Deno.test("steps of a closing and restarting frontend that were missed do not matter", () => {
  for (const found of [1, 3] as const) {
    const device = connected();
    device.frontend(6);
    device.frontend(found);
    device.frontend(3);
    assertEquals([device.backendState, device.connected], [4, true]);
  }
  const device = connected();
  assertEquals(device.frontend(1), ["offer"], "it started over without closing");
  assertEquals(device.frontend(3), ["connect"]);
});

Deno.test("removal by the toolstack waits for an active frontend", () => {
  const device = connected();
  assertEquals([device.toolstackRemoves(), device.connected], [[], true], "the guest still has it mounted");
  assertEquals([device.frontend(5), device.connected], [[], true]);
  assertEquals([device.frontend(6), device.backendState], [["close"], 6]);
  device.backendState = "gone";
  device.frontendState = "gone";
  assertEquals(decide(device.situation).kind, "teardown");
});

Deno.test("removal goes to Closed by itself where no frontend is active", () => {
  const fresh = new Device();
  fresh.goOn();
  assertEquals([fresh.toolstackRemoves(), fresh.backendState, fresh.image], [["close"], 6, "none"]);
  const closed = connected();
  closed.frontend(6);
  assertEquals([closed.toolstackRemoves(), closed.backendState], [["close"], 6]);
  closed.frontend(1);
  assertEquals(closed.backendState, 6, "it is not offered again");
});

Deno.test("removal by force, with the frontend's directory gone, ends in Closed", () => {
  const device = connected();
  device.frontendState = "gone";
  assertEquals([device.toolstackRemoves(), device.backendState, device.connected], [["teardown"], 6, false]);
});

Deno.test("a restarted process takes a Connected device up again, wherever its frontend is", () => {
  for (const frontend of [3, 4] as const) {
    const device = connected();
    device.restart();
    assertEquals([device.frontend(frontend), device.backendState], [["open", "connect"], 4]);
  }
  const device = connected();
  device.restart();
  assertEquals([device.frontend(1), device.backendState], [["offer", "open"], 2]);
  assertEquals(device.frontend(3), ["connect"]);
});

Deno.test("a process that was restarted while the frontend was starting, closing or closed goes on from there", () => {
  const offered = new Device();
  offered.goOn();
  offered.restart();
  assertEquals([offered.goOn(), offered.backendState], [["open"], 2]);
  offered.restart();
  assertEquals([offered.frontend(3), offered.backendState], [["open", "connect"], 4]);
  const closing = connected();
  closing.restart();
  assertEquals([closing.frontend(5), closing.backendState], [["close-begin"], 5]);
  closing.restart();
  assertEquals([closing.frontend(6), closing.backendState], [["close"], 6]);
  closing.restart();
  assertEquals([closing.goOn(), closing.frontend(1), closing.backendState], [[], ["offer", "open"], 2]);
});

Deno.test("a process that was restarted while a removal waits for a busy guest serves that guest, still in Closing", () => {
  const device = connected();
  device.toolstackRemoves();
  device.restart();
  assertEquals([device.goOn(), device.backendState, device.connected], [["open", "resume"], 5, true]);
  assertEquals([device.frontend(6), device.backendState, device.connected], [["close"], 6, false]);
});

Deno.test("a connection that failed is not tried again before the frontend has moved", () => {
  const device = new Device();
  device.goOn();
  device.frontendState = 3;
  assertEquals(decide(device.situation).kind, "connect");
  device.backendState = 5;
  assertEquals(device.goOn(), []);
  assertEquals([device.frontend(6), device.frontend(1), device.frontend(3)], [["close"], ["offer", "open"], [
    "connect",
  ]]);
});

Deno.test("nonsense from the frontend changes nothing", () => {
  const device = connected();
  for (const state of MEANINGLESS) assertEquals([device.frontend(state), device.connected], [[], true]);
  assertEquals([device.frontend(4), device.connected], [[], true]);
});

Deno.test("a guest's death releases everything in any state", () => {
  for (const backendState of STATES) {
    for (const held of [HELD.image, HELD.ring]) {
      const device = Object.assign(new Device(), { backendState, ...held });
      device.frontendState = "gone";
      assertEquals(decide(device.situation).kind, "teardown");
    }
  }
});

/**
 * The host of the golden files: simulated guests with disks in every standing, as nodes in xenstore. Commands run in this
 * process, on a terminal of a given width.
 */

import { main } from "../../../lib/cli/main.ts";
import { type ByteSink, Output } from "../../../lib/cli/output.ts";
import type { Host } from "../../../lib/cli/verb.ts";
import { openNativePlatform } from "../../../native.ts";
import { type TestHost, testHost, type TestStore } from "../../../testing.ts";

/** Long enough to be shortened on a narrow terminal. */
const LONG_PATH = "/srv/images/guests/web-server-of-the-accounting-department/root.img";

/** Nodes below a backend's directory, with the frontend's state. */
interface Nodes {
  readonly kind: string;
  readonly domain: number;
  readonly vdev: number;
  readonly backend: Readonly<Record<string, string>>;
  readonly frontend: Readonly<Record<string, string>>;
}

const DISKS: readonly Nodes[] = [
  {
    kind: "qdisk",
    domain: 1,
    vdev: 51712,
    backend: {
      ...{ "mode": "w", "state": "4", "online": "1", "params": `aio:${LONG_PATH}`, "sectors": "41943040" },
      ...{ "sector-size": "512", "feature-flush-cache": "1", "feature-persistent": "1", "multi-queue-max-queues": "4" },
    },
    frontend: { "state": "4", "ring-ref": "8", "event-channel": "15", "protocol": "x86_64-abi" },
  },
  {
    kind: "vbd3",
    domain: 1,
    vdev: 51728,
    backend: {
      "mode": "r",
      "state": "2",
      "online": "1",
      "params": "none.img",
      "error": "Cannot open image none.img: there is no such file; create it, or correct the path",
    },
    frontend: { "state": "1" },
  },
  {
    kind: "vbd3",
    domain: 2,
    vdev: 51712,
    backend: { "mode": "w", "state": "1", "online": "1", "params": "qcow2:/srv/db.qcow2" },
    frontend: { "state": "1" },
  },
];

/** A simulated host as the verbs see theirs: with its hypervisor and xenstore, and the files of this machine. */
export async function hostOf(host: TestHost): Promise<Host> {
  const { platform: simulated } = host;
  const platform = Object.assign(await openNativePlatform(), {
    imageLocks: simulated.imageLocks!,
    openXenstore: simulated.openXenstore.bind(simulated),
    openGrantTable: simulated.openGrantTable.bind(simulated),
    openEventChannels: simulated.openEventChannels.bind(simulated),
  });
  return { openNativePlatform: () => Promise.resolve(platform) };
}

/** A host on which commands can run. */
export class Scene implements AsyncDisposable {
  readonly #host: TestHost;
  /** As the verbs see it. */
  readonly verbsHost: Host;

  private constructor(host: TestHost, verbsHost: Host) {
    this.#host = host;
    this.verbsHost = verbsHost;
  }

  /** Guests web (domain 1) and db (domain 2) with {@linkcode DISKS}. */
  static async start(): Promise<Scene> {
    const host = await testHost();
    for (const name of ["web", "db"]) await host.startGuest({ name, autoconnect: false });
    for (const { kind, domain, vdev, backend, frontend } of DISKS) {
      const frontendPath = `/local/domain/${domain}/device/vbd/${vdev}`;
      const backendPath = `/local/domain/0/backend/${kind}/${domain}/${vdev}`;
      const all = { ...backend, "frontend": frontendPath, "frontend-id": String(domain) };
      for (const [name, value] of Object.entries(all)) host.store.write(`${backendPath}/${name}`, value);
      for (const [name, value] of Object.entries(frontend)) host.store.write(`${frontendPath}/${name}`, value);
    }
    return new Scene(host, await hostOf(host));
  }

  /** Its xenstore. */
  get store(): TestStore {
    return this.#host.store;
  }

  /** Runs `xenblk <command>` on a terminal; returns what a person sees there, and the exit status. */
  async run(command: string, columns: number): Promise<string> {
    const screen = new Screen();
    const args = command.split(" ").filter((word) => word !== "");
    const status = await main(args, this.verbsHost, "0.0.0", new Output(screen, screen, () => columns));
    return `${`$ xenblk ${command}`.trimEnd()}\n${screen.text}[status ${status}]\n`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#host[Symbol.asyncDispose]();
  }
}

/** A terminal that keeps what stays on it: progress is erased. */
class Screen implements ByteSink {
  readonly #decoder = new TextDecoder();
  #text = "";

  get text(): string {
    // deno-lint-ignore no-control-regex -- the sequence that erases a line
    return this.#text.replace(/\r[^\n\r]*\x1b\[K/g, "");
  }

  writeSync(bytes: Uint8Array): number {
    this.#text += this.#decoder.decode(bytes, { stream: true });
    return bytes.length;
  }

  isTerminal(): boolean {
    return true;
  }
}

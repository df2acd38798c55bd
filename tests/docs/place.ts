/**
 * Places in which the commands of documents run: a folder with a command `xenblk` on the path, without Xen, or on a
 * stand-in host with a guest named `web`. The guest's driver connects to every disk that it is offered, and releases a
 * disk whose removal is requested.
 */

import { type DeviceAddress, frontendPath } from "../../lib/xenbus/paths.ts";
import { ROOT } from "../house/source.ts";
import { NativeXen } from "../native/harness.ts";
import { GuestProcess } from "../native/serve/guest.ts";

/** The outcome of a command line. */
export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The guest of the documents' examples. */
const WEB = 7;
/** How often the guest looks for new disks. */
const LOOK_MS = 50;

/** A folder where command lines run one after another; it goes when it is disposed. */
export class Place implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "xenblk-docs-" });
  readonly #env: Record<string, string>;
  readonly #served: ServingLine[] = [];

  private constructor(host: Record<string, string>, private readonly isCheckout: boolean) {
    Deno.mkdirSync(`${this.folder}/bin`);
    this.#program("xenblk", `exec "${Deno.execPath()}" run -A --no-check "${ROOT}cli.ts" "$@"`);
    this.#program("npx", `shift 2; exec "${Deno.execPath()}" "$@"`);
    this.#env = { NO_COLOR: "1", ...host, PATH: `${this.folder}/bin:${Deno.env.get("PATH")}` };
  }

  /** Without Xen, in a checkout or in the folder. */
  static withoutXen(where: "checkout" | "folder" = "checkout"): Place {
    return new Place({}, where === "checkout");
  }

  /** As a process of domain 0. */
  static inDomain0(xen: NativeXen): Place {
    return new Place(xen.env(0), false);
  }

  #program(name: string, line: string): void {
    Deno.writeTextFileSync(`${this.folder}/bin/${name}`, `#!/bin/sh\n${line}\n`, { mode: 0o755 });
  }

  /** Runs a script to its end. */
  async run(script: string): Promise<Outcome> {
    const { code, stdout, stderr } = await this.#command(script).output();
    const decoder = new TextDecoder();
    return { status: code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
  }

  /** Starts a line that serves until it is ended, and waits until its output matches; returns that. */
  async serve(line: string, ready: RegExp): Promise<string> {
    const serving = new ServingLine(this.#command(`exec env ${line}`).spawn());
    this.#served.push(serving);
    return await serving.says(ready);
  }

  /** Waits until as many serving processes can be reached by their control sockets. */
  async reachable(processes: number): Promise<void> {
    const sockets = `${this.#env["XENBLK_JOURNAL_DIR"]}/control`;
    const count = async (): Promise<number> => {
      const { stdout } = await this.run(`ls ${sockets} | grep -c sock || true`);
      return Number(stdout);
    };
    while (await count() < processes) await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }

  /** Ends the lines that serve by INT, as a person would; returns their exit statuses. */
  async end(): Promise<number[]> {
    return await Promise.all(this.#served.splice(0).map((serving) => serving.end("SIGINT")));
  }

  #command(script: string): Deno.Command {
    const cwd = this.isCheckout ? ROOT : this.folder;
    const args = ["-euo", "pipefail", "-c", script];
    return new Deno.Command("bash", { args, cwd, env: this.#env, stdin: "null", stdout: "piped", stderr: "piped" });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#served.map((serving) => serving.end("SIGKILL")));
    Deno.removeSync(this.folder, { recursive: true });
  }
}

class ServingLine {
  #said = "";
  readonly #ended: Promise<number>;
  readonly #heard = new EventTarget();

  constructor(private readonly child: Deno.ChildProcess) {
    this.#ended = this.#collect();
  }

  async says(what: RegExp): Promise<string> {
    while (!what.test(this.#said)) {
      const heard = new Promise<undefined>((resolve) => {
        this.#heard.addEventListener("text", () => resolve(undefined), { once: true });
      });
      const status = await Promise.race([heard, this.#ended]);
      if (status !== undefined) throw new Error(`it ended with ${status} before it said ${what}: ${this.#said}`);
    }
    return this.#said;
  }

  async end(signal: Deno.Signal): Promise<number> {
    try {
      this.child.kill(signal);
    } catch { /* it has ended */ }
    return await this.#ended;
  }

  async #collect(): Promise<number> {
    await Promise.all([this.child.stdout, this.child.stderr].map(async (stream) => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) {
        this.#said += text;
        this.#heard.dispatchEvent(new Event("text"));
      }
    }));
    return (await this.child.status).code;
  }
}

/** A stand-in host on which the guest `web` runs. */
export class HostWithWeb implements AsyncDisposable {
  readonly #guest: GuestProcess;
  readonly #running: Promise<void>;
  #isEnding = false;

  private constructor(readonly xen: NativeXen) {
    this.#guest = new GuestProcess(xen, WEB);
    this.#running = this.#drive();
  }

  /** Starts the machine, xenstored and the guest. */
  static async start(): Promise<HostWithWeb> {
    const xen = await NativeXen.start();
    await xen.createDomain(WEB, "web");
    return new HostWithWeb(xen);
  }

  async #drive(): Promise<void> {
    while (!this.#isEnding) {
      for (const vdev of await this.#waiting()) {
        const disk = await this.#guest.disk(frontendPath({ frontendDomain: WEB, vdev } as DeviceAddress));
        await disk.connect(); // it closes by itself when the backend does
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  /** The guest's disks with a backend in InitWait. */
  async #waiting(): Promise<number[]> {
    // It fails if a node goes while it lists.
    const tree = await this.xen.run("xenstore-ls", ["-f", "/local/domain/0"]).catch(() => "");
    return [...tree.matchAll(new RegExp(`/backend/\\w+/${WEB}/(\\d+)/state = "2"`, "g"))].map((match) =>
      Number(match[1])
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnding = true;
    try {
      await this.#running;
    } finally {
      await this.#guest[Symbol.asyncDispose]();
      await this.xen[Symbol.asyncDispose]();
    }
  }
}

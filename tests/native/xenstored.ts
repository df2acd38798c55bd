/**
 * Finds and runs a real xenstored (the C one of Debian's xen-utils) with a private socket, on the stand-ins for Xen's
 * libraries.
 */

const UNPACKED = new URL("./build/xen-utils", import.meta.url).pathname;

/** Path of an installed xenstored, or of the one that install.sh unpacked. Undefined if there is none. */
export function findXenstored(): string | undefined {
  for (const root of ["", UNPACKED]) {
    let names: string[] = [];
    try {
      names = [...Deno.readDirSync(`${root}/usr/lib`)].map((entry) => entry.name);
    } catch {
      continue;
    }
    for (const name of names.filter((name) => name.startsWith("xen-")).sort().reverse()) {
      const path = `${root}/usr/lib/${name}/bin/xenstored`;
      try {
        if (Deno.statSync(path).isFile) return path;
      } catch { /* no xenstored in this version's folder */ }
    }
  }
  return undefined;
}

async function connects(socketPath: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path: socketPath })).close();
    return true;
  } catch {
    return false;
  }
}

/** A running xenstored. */
export class Xenstored {
  readonly #child: Deno.ChildProcess;
  readonly #stderr: Promise<string>;
  /** True once it has ended. */
  #ended = false;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#stderr = new Response(child.stderr).text();
    child.status.then(() => this.#ended = true);
  }

  /** Process id. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Starts xenstored and waits up to 60 s until its socket answers. Throws Error with its messages if it does not. */
  static async start(path: string, socketPath: string, env: Record<string, string>): Promise<Xenstored> {
    const command = new Deno.Command(path, {
      args: ["--no-fork"],
      env,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    });
    const daemon = new Xenstored(command.spawn());
    const deadline = performance.now() + 60_000;
    while (!daemon.#ended && performance.now() < deadline) {
      if (await connects(socketPath)) return daemon;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await daemon.stop("SIGKILL");
    throw new Error(`Cannot start ${path}: ${(await daemon.#stderr).trim() || "its socket does not answer"}`);
  }

  /** Ends xenstored if it still runs, and waits for its end. */
  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    if (!this.#ended) this.#child.kill(signal);
    await this.#child.status;
    await this.#stderr;
  }
}

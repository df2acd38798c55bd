/**
 * Debian's Prometheus: promtool, which checks texts of metrics and alerts, and the server, which scrapes and answers
 * queries. tests/native/install.sh unpacks both.
 */

const UNPACKED = new URL("../native/build/prometheus", import.meta.url).pathname;

/** Where a program of Debian's package prometheus is; undefined if it is neither installed nor unpacked. */
function find(name: "promtool" | "prometheus"): string | undefined {
  return ["", UNPACKED].map((root) => `${root}/usr/bin/${name}`).find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
}

/** Says that Prometheus is missing. Undefined if it is there. */
export function missingPrometheus(): string | undefined {
  if (find("promtool") !== undefined && find("prometheus") !== undefined) return undefined;
  return "promtool is missing (Debian package prometheus; tests/native/install.sh unpacks it)";
}

/** What promtool says, with its exit status; `input` is its standard input. */
export async function promtool(args: readonly string[], input = ""): Promise<{ status: number; said: string }> {
  const options: Deno.CommandOptions = { args: [...args], stdin: "piped", stdout: "piped", stderr: "piped" };
  const child = new Deno.Command(find("promtool") ?? "promtool", options).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  const { code, stdout, stderr } = await child.output();
  return { status: code, said: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

/** A series that a query found. */
export interface Series {
  readonly metric: Readonly<Record<string, string>>;
  /** When, in Unix seconds, and the number as text. */
  readonly value: readonly [number, string];
}

/** A Prometheus that scrapes one target twice a second. Disposing it ends it. */
export class Prometheus implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #folder: string;
  readonly #address: string;

  private constructor(child: Deno.ChildProcess, folder: string, address: string) {
    this.#child = child;
    this.#folder = folder;
    this.#address = address;
  }

  /** Starts one with a file of rules; `target` is HOST:PORT. */
  static start(target: string, rules: string): Prometheus {
    const folder = Deno.makeTempDirSync({ prefix: "xenblk-prometheus-" });
    Deno.writeTextFileSync(
      `${folder}/prometheus.yml`,
      JSON.stringify({
        global: { scrape_interval: "500ms", evaluation_interval: "1s" },
        rule_files: [rules],
        scrape_configs: [{ job_name: "xenblk", static_configs: [{ targets: [target] }] }],
      }),
    );
    const address = `127.0.0.1:${freePort()}`;
    const child = new Deno.Command(find("prometheus") ?? "prometheus", {
      args: [
        `--config.file=${folder}/prometheus.yml`,
        `--storage.tsdb.path=${folder}/data`,
        `--web.listen-address=${address}`,
      ],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    return new Prometheus(child, folder, address);
  }

  /** The series that an expression has now. Rejects with Prometheus' own words if it is wrong. */
  async query(expression: string): Promise<readonly Series[]> {
    return (await this.ask<{ result: Series[] }>(`query?query=${encodeURIComponent(expression)}`)).result;
  }

  /** The first answer to a query that has series. */
  async untilFound(expression: string, timeoutMs = 30_000): Promise<readonly Series[]> {
    for (const end = performance.now() + timeoutMs; performance.now() < end;) {
      const found = await this.query(expression).catch((error) => {
        if (error instanceof TypeError) return []; // it is not up or not ready yet
        throw error;
      });
      if (found.length > 0) return found;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`Prometheus found nothing for ${expression}`);
  }

  /** The data of an answer of its API. */
  async ask<T>(path: string): Promise<T> {
    const response = await fetch(`http://${this.#address}/api/v1/${path}`);
    if (response.status === 503) throw new TypeError(`Prometheus is not ready: ${await response.text()}`);
    const answer = await response.json();
    if (answer.status !== "success") throw new Error(`Prometheus: ${answer.error}: ${path}`);
    return answer.data;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** A port that nobody listens on now. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}

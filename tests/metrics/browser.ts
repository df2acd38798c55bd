/**
 * A headless Chromium with one page, driven through its DevTools protocol (Chrome DevTools Protocol, domains Page,
 * Runtime, Log and Emulation).
 */

/** Debian's programs themselves: what is on the path is a script, which would outlive a kill of its own process. */
const PROGRAMS = ["/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium"];

/** Where Chromium is; undefined if it is not installed. */
export function findChromium(): string | undefined {
  return PROGRAMS.find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
}

interface Reply {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Readonly<Record<string, unknown>>;
  readonly result?: Readonly<Record<string, unknown>>;
  readonly error?: { readonly message: string };
}

/** A page in a browser of its own. Disposing it ends the browser. */
export class Browser implements AsyncDisposable {
  /** What the page could not do: exceptions, refused loads, breaches of its Content-Security-Policy. */
  readonly troubles: string[] = [];
  readonly #child: Deno.ChildProcess;
  readonly #profile: string;
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, PromiseWithResolvers<Readonly<Record<string, unknown>>>>();
  #next = 1;

  private constructor(child: Deno.ChildProcess, profile: string, socket: WebSocket) {
    this.#child = child;
    this.#profile = profile;
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
  }

  /** Starts the browser and opens the page. */
  static async open(url: string): Promise<Browser> {
    const program = findChromium();
    if (program === undefined) throw new Error("Cannot open a page: Chromium is missing (tests/native/install.sh)");
    const profile = Deno.makeTempDirSync({ prefix: "xenblk-chromium-" });
    const args = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--remote-debugging-port=0",
    ];
    const child = new Deno.Command(program, {
      args: [...args, `--user-data-dir=${profile}`, "about:blank"],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const browser = new Browser(child, profile, await connect(await debuggerOf(child)));
    for (const domain of ["Page", "Runtime", "Log"]) await browser.send(`${domain}.enable`);
    await browser.send("Page.navigate", { url });
    return browser;
  }

  /** Calls a method of the protocol. */
  async send(
    method: string,
    params: Readonly<Record<string, unknown>> = {},
  ): Promise<Readonly<Record<string, unknown>>> {
    const id = this.#next++;
    const reply = Promise.withResolvers<Readonly<Record<string, unknown>>>();
    this.#waiting.set(id, reply);
    this.#socket.send(JSON.stringify({ id, method, params }));
    return await reply.promise;
  }

  /** The value of an expression in the page, as JSON carries it. */
  async evaluate<T>(expression: string): Promise<T> {
    const { result } = await this.send("Runtime.evaluate", {
      expression: `Promise.resolve(${expression}).then((value) => JSON.stringify(value ?? null))`,
      awaitPromise: true,
      returnByValue: true,
    }) as { result: { value: string } };
    return JSON.parse(result.value);
  }

  /** Waits until an expression in the page is true. */
  async until(expression: string, timeoutMs = 20_000): Promise<void> {
    for (const end = performance.now() + timeoutMs; !await this.evaluate<boolean>(`Boolean(${expression})`);) {
      if (performance.now() > end) throw new Error(`in the page, ${expression} did not come true`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Sets the width of the window, in CSS pixels, and the colours that the user prefers. */
  async look(width: number, colours: "light" | "dark"): Promise<void> {
    await this.send("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: false });
    await this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: colours }] });
  }

  /** The page as PNG. */
  async screenshot(): Promise<Uint8Array> {
    const { data } = await this.send("Page.captureScreenshot", { format: "png" }) as { data: string };
    return Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#socket.onclose = resolve);
    this.#child.kill("SIGKILL");
    await closed;
    await this.#child.status;
    await removeProfile(this.#profile);
  }

  #take({ id, method, params = {}, result = {}, error }: Reply): void {
    if (id === undefined) {
      if (method === "Runtime.exceptionThrown" || method === "Log.entryAdded") {
        this.troubles.push(JSON.stringify(params));
      }
      return;
    }
    const reply = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) reply?.resolve(result);
    else reply?.reject(new Error(error.message));
  }
}

/** The browser's other processes end after it, and write until then. */
async function removeProfile(path: string): Promise<void> {
  for (const end = performance.now() + 10_000;;) {
    try {
      return await Deno.remove(path, { recursive: true });
    } catch (error) {
      if (performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** The DevTools address of the browser's page. */
async function debuggerOf(child: Deno.ChildProcess): Promise<string> {
  let said = "";
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    said += text;
    const [, host] = /DevTools listening on ws:\/\/([^/]+)\//.exec(said) ?? [];
    if (host === undefined) continue;
    const targets: { type: string; webSocketDebuggerUrl: string }[] = await (await fetch(`http://${host}/json`)).json();
    const page = targets.find(({ type }) => type === "page");
    if (page !== undefined) return page.webSocketDebuggerUrl;
  }
  throw new Error(`Chromium did not start: ${said}`);
}

async function connect(address: string): Promise<WebSocket> {
  const socket = new WebSocket(address);
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  return socket;
}

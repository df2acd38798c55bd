/**
 * Runs the rig's shell scripts, each with a time limit; an error names the script. Also prints lines and computes
 * digests.
 */

const HERE = new URL("./", import.meta.url).pathname;

/**
 * Runs a script of this folder and returns its stdout. Its stderr is passed on at once. If the script fails, the last
 * line of stderr is the reason in the error.
 */
export async function shell(script: string, args: readonly string[], timeoutSeconds: number): Promise<string> {
  const signal = AbortSignal.timeout(timeoutSeconds * 1000);
  const command = new Deno.Command("bash", {
    args: [HERE + script, ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal,
  });
  const child = command.spawn();
  const [{ success, code }, stdout, last] = await Promise.all([
    child.status,
    new Response(child.stdout).text(),
    passOn(child.stderr),
  ]);
  if (signal.aborted) throw new Error(`${script} took longer than ${Math.round(timeoutSeconds)} s`);
  if (!success) throw new Error(`${script} ended with status ${code}: ${last}`);
  return stdout;
}

/** Copies a stream to stderr. Returns its last line that is not empty. */
async function passOn(stream: ReadableStream<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of stream) {
    await Deno.stderr.write(bytes);
    text = (text + decoder.decode(bytes, { stream: true })).slice(-2000);
  }
  return text.trimEnd().split("\n").at(-1)!;
}

/** SHA-256 over the named files of this folder and over other texts, as hexadecimal digits. */
export async function digest(files: readonly string[], texts: readonly string[]): Promise<string> {
  const parts = [...await Promise.all(files.map((file) => Deno.readTextFile(HERE + file))), ...texts];
  const bytes = new TextEncoder().encode(parts.map((part) => `${part.length}:${part}`).join(""));
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Prints a line for the person who runs the tests. */
export function print(line: string): void {
  const bytes = new TextEncoder().encode(`${line}\n`);
  for (let written = 0; written < bytes.length;) written += Deno.stdout.writeSync(bytes.subarray(written));
}

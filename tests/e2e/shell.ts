/**
 * Running the rig's shell scripts: one call that waits, bounded in time, and fails with the script's name; and printing a
 * line. It must not know any script.
 */

const HERE = new URL("./", import.meta.url).pathname;

/**
 * Runs a script beside this file and returns what it printed; its messages go to stderr as they come, and the last of
 * them is the reason if it fails.
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

/** Copies a stream to stderr; returns its last line that is not empty. */
async function passOn(stream: ReadableStream<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of stream) {
    await Deno.stderr.write(bytes);
    text = (text + decoder.decode(bytes, { stream: true })).slice(-2000);
  }
  return text.trimEnd().split("\n").at(-1)!;
}

/** SHA-256 of the named files of this folder and of other texts, as hexadecimal digits. */
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

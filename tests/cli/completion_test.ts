/**
 * Completion of guests, disks and files: what `xenblk completion-words` knows, and real shells that complete a line with it,
 * against a real xenstored.
 */

import { assert, assertEquals } from "@std/assert";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { completionWords } from "../../lib/cli/completion_words.ts";
import { ROOT } from "../house/source.ts";
import { missingProgram, nativeTest, NativeXen } from "../native/harness.ts";
import { xenblk } from "./command.ts";
import { Scene } from "./golden/scene.ts";

Deno.test("operands complete: guests, then the disks of that guest, or files; values of options do not count", async () => {
  await using scene = await Scene.start();
  const verbs = await Promise.all(CATALOG.map((entry) => entry.load()));
  const at = async (line: string): Promise<string> =>
    (await completionWords(line.split(" "), verbs, scene.verbsHost)).trimEnd().replaceAll("\n", " ");
  assertEquals(await at("detach "), "web db");
  assertEquals(await at("detach web "), "xvda xvdb");
  assertEquals(await at("show --json 2 xv"), "xvda");
  assertEquals(await at("detach --timeout 5 -v web "), "xvda xvdb");
  assertEquals(await at("resize --timeout = 5 db "), "xvda");
  assertEquals(await at("attach web "), ":files");
  assertEquals(await at("attach web disk.img "), "", "the new disk's name is the user's choice");
  assertEquals(await at("attach web --keep-overlay "), ":files");
  assertEquals(await at("image info "), ":files");
  for (const line of ["", "no-such-verb ", "detach nobody ", "detach web xvda ", "detach --timeout "]) {
    assertEquals(await at(line), "", line);
  }
});

Deno.test("a guest's name that a shell would run is left out, and a lost xenstored is not worth a word", async () => {
  await using scene = await Scene.start();
  const verbs = await Promise.all(CATALOG.map((entry) => entry.load()));
  scene.store.write("/local/domain/2/name", "$(touch /tmp/x)");
  assertEquals(await completionWords(["list", ""], verbs, scene.verbsHost), "web\n");
  scene.store.lose();
  assertEquals(await completionWords(["list", ""], verbs, scene.verbsHost), "");
});

/** Types into a shell on a terminal, and waits for what it shows. */
class Typist implements AsyncDisposable {
  readonly #shell: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #reader: ReadableStreamDefaultReader<string>;
  #shown = "";

  constructor(command: string, env: Readonly<Record<string, string>>) {
    this.#shell = new Deno.Command("script", {
      args: ["-qec", command, "/dev/null"],
      env: { ...env, TERM: "dumb" },
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#writer = this.#shell.stdin.getWriter();
    this.#reader = this.#shell.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Types the text; resolves once the shell has shown the expected one, which was not there before. */
  async type(text: string, expected: string): Promise<void> {
    this.#shown = "";
    await this.#writer.write(new TextEncoder().encode(text));
    while (!this.#shown.includes(expected)) {
      const { value, done } = await this.#reader.read();
      if (done) throw new Error(`the shell ended without ${expected}: ${this.#shown}`);
      this.#shown += value;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#shell.kill("SIGKILL");
    await this.#writer.abort().catch(() => {});
    await this.#reader.cancel();
    await this.#shell.status;
  }
}

const MISSING = missingProgram("zsh", "zsh") ?? missingProgram("fish", "fish");

nativeTest("bash, zsh and fish complete a guest and its disk from xenstore", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(5, "web-server");
  await xen.run("xenstore-write", [
    "/local/domain/0/backend/qdisk/5/51760/frontend",
    "/local/domain/5/device/vbd/51760",
  ]);
  const command = `${xen.directory}/xenblk`;
  Deno.writeTextFileSync(command, `#!/bin/sh\nexec "${Deno.execPath()}" run --no-prompt -A "${ROOT}cli.ts" "$@"\n`);
  Deno.chmodSync(command, 0o755);
  const env = { ...xen.env(), PATH: `${xen.directory}:${Deno.env.get("PATH")}`, HOME: xen.directory };
  const scripts = await Promise.all(["bash", "zsh", "fish"].map(async (shell) => {
    const path = `${xen.directory}/completion.${shell}`;
    Deno.writeTextFileSync(path, (await xenblk(["completion", shell])).stdout);
    return path;
  }));
  const [bash, zsh, fish] = scripts;
  const onTerminal = async (shell: string, setUp: string): Promise<void> => {
    await using typist = new Typist(shell, env);
    await typist.type(`${setUp}; echo is-\${PWD:0:0}ready\n`, "is-ready");
    await typist.type("xenblk detach we\t", "web-server");
    await typist.type("xv\t", "xvdd");
  };
  const inFish = async (): Promise<void> => {
    for (const [line, expected] of [["xenblk detach we", "web-server"], ["xenblk show web-server ", "xvdd"]]) {
      const args = ["--no-config", "-c", `source ${fish}; complete -C '${line}'`];
      const { stdout } = await new Deno.Command("fish", { args, env }).output();
      assert(
        new TextDecoder().decode(stdout).split("\n").includes(expected!),
        `${line}: ${new TextDecoder().decode(stdout)}`,
      );
    }
  };
  await Promise.all([
    onTerminal("bash --norc --noprofile -i", `source ${bash}`),
    onTerminal("zsh -f -i", `autoload -U compinit; compinit -u -D; source ${zsh}`),
    inFish(),
  ]);
}, MISSING);

import { NativeXen } from "./native/harness.ts";
await using xen = await NativeXen.start();
const script = `
import { openNativePlatform } from "/tmp/review1/src/ffi/platform.ts";
const p = openNativePlatform();
const usage = () => [[...Deno.readDirSync("/proc/self/fd")].length, [...Deno.readDirSync("/proc/self/task")].length, /VmSize:\\s+(\\d+)/.exec(Deno.readTextFileSync("/proc/self/status"))[1], Deno.readTextFileSync("/proc/self/maps").split("\\n").length].join(" ");
for (const kind of ["ok", "stopped", "gone"]) {
  if (kind === "stopped") Deno.kill(Number(Deno.args[0]), "SIGSTOP");
  if (kind === "gone") Deno.kill(Number(Deno.args[0]), "SIGKILL");
  for (let i = 0; i < 51; i++) {
    if (i % 25 === 0) console.log(kind, i, usage());
    try { const s = p.openXenstore(); try { s.read("/a"); const w = s.watch("/"); for await (const x of w) break; w[Symbol.dispose](); } catch (e) { if (i === 50) console.log(e.message); } s[Symbol.dispose](); } catch (e) { if (i === 50) console.log("open", e.message); }
    await new Promise(r => setTimeout(r, 1));
  }
}
`;
await Deno.writeTextFile("/tmp/review1/x/c.ts", script);
const out = await new Deno.Command(Deno.execPath(), { args: ["run", "-A", "--no-check", "--config", "/tmp/review1/src/deno.json", "/tmp/review1/x/c.ts", String(xen.xenstoredPid)], env: xen.env(0) }).output();
console.log(new TextDecoder().decode(out.stdout), new TextDecoder().decode(out.stderr));

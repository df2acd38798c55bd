import { NativeXen } from "./native/harness.ts";
await using xen = await NativeXen.start();
const common = `import { openNativePlatform } from "/tmp/review1/src/ffi/platform.ts"; const store = openNativePlatform().openXenstore();`;
await Deno.writeTextFile("/tmp/review1/x/flood.ts", common + `
for (let i = 0; i < 900; i++) store.write("/flood/" + "n".repeat(200) + i, "");
console.log("ready");
const end = performance.now() + 20000; let n = 0;
while (performance.now() < end) { store.write("/flood/x", "1"); store.remove("/flood/x"); n += 2; }
console.log(n);
`);
await Deno.writeTextFile("/tmp/review1/x/list.ts", common + `
for (let i = 0; i < 20; i++) { const t = performance.now(); let r; try { r = store.list("/flood").length } catch (e) { r = e.message } console.log(r, Math.round(performance.now() - t), "ms"); }
`);
const run = (f: string) => new Deno.Command(Deno.execPath(), { args: ["run", "-A", "--no-check", "--config", "/tmp/review1/src/deno.json", f], env: xen.env(0), stdout: "piped" }).spawn();
const flood = run("/tmp/review1/x/flood.ts");
await new Promise((r) => setTimeout(r, 3000));
const l = run("/tmp/review1/x/list.ts");
const timer = setTimeout(() => l.kill("SIGKILL"), 14000);
console.log(new TextDecoder().decode((await l.output()).stdout)); clearTimeout(timer);
console.log(new TextDecoder().decode((await flood.output()).stdout));

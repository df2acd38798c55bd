import { ChannelRig, eventually, Folder, PoolRig } from "./storage/rig.ts";
const STALLING = new URL("./storage/stalling_executor.ts", import.meta.url);
const folder = new Folder();
const rig = new PoolRig({ workers: Number(Deno.args[0]), module: STALLING, limits: { stuckMs: 50, openMs: 500 }, warn: () => {} });
const d = await rig.open(folder.file(`h`, 1 << 20), false, 200);
const c = new ChannelRig(await d.attachment(0), { platform: rig.platform, parker: rig.parker, depth: 128, bufferBytes: 4096, vectorsPerTag: 1 });
folder.file(`h.stall`, 1);
for (let t = 0; t < 128; t++) c.read(t, t * 4096, [512]);
c.channel.submit();
await new Promise((r) => setTimeout(r, 1500));
Deno.removeSync(`${folder.path}/h.stall`);
let done = 0;
const t = performance.now();
while (performance.now() - t < 5000 && done < 128) { done += c.channel.reap(); await new Promise((r) => setTimeout(r, 2)); }
console.log("done", done, "of 128 after", Math.round(performance.now() - t), "ms");
Deno.exit(0);

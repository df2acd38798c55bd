import { ChannelRig, eventually, Folder, PoolRig } from "./storage/rig.ts";
const STALLING = new URL("./storage/stalling_executor.ts", import.meta.url);
const folder = new Folder();
const warnings: string[] = [];
const rig = new PoolRig({ workers: 4, module: STALLING, limits: { stuckMs: 50, openMs: 500 }, warn: (m) => warnings.push(m.slice(-120)) });
const n = Number(Deno.args[0]);
const disks = [];
for (let i = 0; i < n; i++) disks.push(await rig.open(folder.file(`h${i}`, 1 << 20), false, 200));
const other = await rig.open(folder.file("other", 1 << 20), false, 200);
const chan = async (d: any) => new ChannelRig(await d.attachment(0), { platform: rig.platform, parker: rig.parker });
const chans = []; for (const d of disks) chans.push(await chan(d));
const oc = await chan(other);
for (let i = 0; i < n; i++) folder.file(`h${i}.stall`, 1);
for (const c of chans) { for (let t = 0; t < 32; t++) c.read(t, t * 4096, [512]); c.channel.submit(); await new Promise((r) => setTimeout(r, 300)); }
await new Promise((r) => setTimeout(r, 1500));
console.log("threads", [...Deno.readDirSync("/proc/self/task")].length);
oc.read(0, 0, [4096]); oc.channel.submit();
const t = performance.now();
let ok = false;
while (performance.now() - t < 4000 && !(ok = oc.channel.reap() === 1)) await new Promise((r) => setTimeout(r, 2));
console.log("neighbour", ok, Math.round(performance.now() - t), "ms", warnings.length, warnings.at(-1));
for (let i = 0; i < n; i++) Deno.removeSync(`${folder.path}/h${i}.stall`);
for (const c of chans) { c.finish(); c[Symbol.dispose](); }
if (!ok) oc.finish(); oc[Symbol.dispose]();
for (const d of [...disks, other]) await d[Symbol.asyncDispose]();
await rig[Symbol.asyncDispose](); folder[Symbol.dispose]();

import "./ffi/libraries.ts";
import { LinuxFiles } from "../ffi/uring/image_files.ts";
import { FileThreads } from "../lib/storage/image/file_threads.ts";
import { openDisk } from "../lib/storage/open.ts";
import { HangingFileSystem } from "./native/hanging_fs.ts";
import { Folder } from "./storage/rig.ts";
const threads = new FileThreads({ limitMs: 1000, idleMs: 500 });
const fuse = await HangingFileSystem.mount();
const folder = new Folder();
const local = folder.file("ok.img", 1 << 20);
const images = Array.from({ length: Number(Deno.args[0]) }, (_, i) => fuse.image(`d${i}.img`, 1 << 20));
const open = (target: string) => openDisk({ format: "raw", target, readOnly: false, engine: "auto" }, { native: new LinuxFiles(threads), warn() {} });
await fuse.hang("open");
for (let round = 0; round < 3; round++) {
  const results = await Promise.allSettled(images.map(open));
  console.log("round", round, threads.counts, new Set(results.map((r) => r.status === "rejected" ? String(r.reason.message).replace(/d\d+/, "dN").slice(-90) : "ok")));
  const t = performance.now();
  const r = await open(local).then(async (d) => { await d[Symbol.asyncDispose](); return "local opened"; }, (e) => e.line ?? e.message);
  console.log(r, Math.round(performance.now() - t), "ms", threads.counts);
}
await fuse.resume();
await new Promise((r) => setTimeout(r, 1500));
console.log(threads.counts, [...Deno.readDirSync("/proc/self/fd")].length, [...Deno.readDirSync("/proc/self/task")].length);
await fuse[Symbol.asyncDispose](); folder[Symbol.dispose]();

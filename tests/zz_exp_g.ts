import "./ffi/libraries.ts";
import { NativeImageLocks } from "../ffi/linux/image_lock.ts";
import { LinuxFiles } from "../ffi/uring/image_files.ts";
import { FileThreads } from "../lib/storage/image/file_threads.ts";
import { openDisk } from "../lib/storage/open.ts";
import { openNativePlatform } from "../ffi/platform.ts";
import { HangingFileSystem, HANGING_OPERATIONS } from "./native/hanging_fs.ts";
import { openBelow, PoolRig } from "./storage/rig.ts";
const threads = new FileThreads({ limitMs: 60, idleMs: 200 });
const locks = new NativeImageLocks(threads);
const fuse = await HangingFileSystem.mount();
await using workers = new PoolRig({ platform: openNativePlatform(), workers: 2, limits: { stuckMs: 50, openMs: 100 }, warn() {} });
const usage = () => `fd ${[...Deno.readDirSync("/proc/self/fd")].length} below ${openBelow(fuse.path)} threads ${[...Deno.readDirSync("/proc/self/task")].length} ft ${JSON.stringify(threads.counts)}`;
for (const op of (Deno.args.length ? Deno.args : HANGING_OPERATIONS)) {
  const target = fuse.image(`${op}.img`, 1 << 20);
  console.log(op, "before:", usage());
  await fuse.hang(op as any);
  const errors = new Map<string, number>();
  for (let i = 0; i < 50; i++) {
    try {
      const disk = await openDisk({ format: "raw", target, readOnly: false, engine: "auto" }, { native: new LinuxFiles(threads), pool: workers.pool, warn() {}, closeLimitMs: 20 });
      try {
        const lock = await locks.tryLock(disk.image!, { writes: true, shared: false, by: "x" });
        await disk.attachment(0);
        if (typeof lock !== "string") await lock[Symbol.asyncDispose](); else throw new Error("busy " + lock);
      } finally { await disk[Symbol.asyncDispose](); }
      errors.set("ok", (errors.get("ok") ?? 0) + 1);
    } catch (e) { const m = String((e as Error).message).replaceAll(fuse.path, "").slice(0, 120); errors.set(m, (errors.get(m) ?? 0) + 1); }
    if (i === 9) console.log("   10:", usage());
  }
  console.log("   50:", usage(), Object.fromEntries(errors));
  await fuse.resume();
  for (let i = 0; i < 200 && (openBelow(fuse.path) > 0 || threads.counts.threads > 0); i++) await new Promise((r) => setTimeout(r, 20));
  console.log("   resumed:", usage());
}
await fuse[Symbol.asyncDispose]();
Deno.exit(0);

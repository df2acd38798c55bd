/**
 * A process that locks an image for writing, says so, and then only waits to be ended: `lock_child.ts PATH`.
 * What its lock does to others is looked at from outside.
 */

import { NativeImageLocks } from "../../ffi/linux/image_lock.ts";
import { identityOf } from "../../lib/storage/image/file.ts";

const [path] = Deno.args;
using file = Deno.openSync(path!, { read: true, write: true });
const image = { path: path!, identity: identityOf(file.statSync()) };
const lock = await new NativeImageLocks().tryLock(image, { writes: true, shared: false, by: "child" });
Deno.stdout.writeSync(new TextEncoder().encode(typeof lock === "string" ? `refused: ${lock}\n` : "locked\n"));
setInterval(() => {}, 1000);

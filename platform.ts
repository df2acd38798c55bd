/**
 * Opens the platform that a descriptor names, in this thread, and what a reactor needs on it: the composition root that
 * brings the two sides of the hypervisor's seam in by dynamic imports, so that a simulated run never loads FFI, nor a
 * real one the simulation.
 */

import { errorText } from "./lib/errors.ts";
import type { ReactorIo } from "./lib/dataplane/reactor_io.ts";
import type { Platform, PlatformDescriptor, WakeToken } from "./lib/hypervisor.ts";
import { openChannel } from "./lib/storage/channel.ts";
import type { ImageFile } from "./lib/storage/image/file.ts";
import type { UringAttachment, UringRefusal } from "./lib/storage/image/medium.ts";

/** Opens the platform; its Xen libraries are opened only when they are first needed. */
export async function openPlatform(descriptor: PlatformDescriptor): Promise<Platform> {
  if (descriptor.kind === "native") {
    const { openNativePlatform } = await import("./ffi/platform.ts");
    return openNativePlatform();
  }
  const { openSimulatedPlatform } = await import("./lib/sim/platform.ts");
  return openSimulatedPlatform(descriptor.machine, descriptor.domain);
}

/**
 * What covers a file, which this thread has just opened, by the lock that this process has on its image; see
 * ffi/linux/image_lock.ts. A simulation locks no files.
 */
export async function openCover(descriptor: PlatformDescriptor): Promise<(image: ImageFile) => void> {
  if (descriptor.kind !== "native") return () => {};
  const { NativeImageLocks } = await import("./ffi/linux/image_lock.ts");
  const locks = new NativeImageLocks();
  return (image) => locks.cover(image);
}

/**
 * A reactor's place to sleep, by the token that others wake it with, and its ways to disks: an io_uring for both where
 * it is wanted and can be had, else the platform's own and storage's engines. `setup` stands in for the kernel's call.
 */
export async function openReactorIo(
  platform: Platform,
  token: WakeToken,
  uring: boolean,
  setup?: import("./ffi/uring/setup.ts").SetupCall,
): Promise<ReactorIo> {
  let uringRefusal: UringRefusal = { reason: "its reactors go without", remedy: "see `xenblk doctor`" };
  if (uring && platform.descriptor.kind === "native") {
    const { UringEngine } = await import("./ffi/uring/engine.ts");
    const { RingUnavailable } = await import("./ffi/uring/setup.ts");
    try {
      return uringIo(new UringEngine(token, setup === undefined ? {} : { setup }));
    } catch (error) {
      const remedy = error instanceof RingUnavailable ? error.remedy : "report this defect";
      uringRefusal = { reason: errorText(error), remedy };
    }
  }
  return { parker: platform.openParker(token), options: { openChannel }, uringRefusal };
}

function uringIo(engine: import("./ffi/uring/engine.ts").UringEngine): ReactorIo {
  return {
    parker: engine,
    options: {
      submit: () => engine.submit(),
      openChannel: (attachment, options) =>
        attachment.engine === "uring"
          ? engine.openChannel(attachment as UringAttachment, options)
          : openChannel(attachment, options),
    },
  };
}

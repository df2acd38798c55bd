/**
 * A wait that ends after a time although what it waits for goes on.
 */

/** Whether the promise resolves within the time; rejects as it does. Infinity: waits for it. */
export async function endsWithin(promise: Promise<unknown>, timeMs: number): Promise<boolean> {
  const end = promise.then(() => true);
  if (timeMs === Infinity) return await end;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<false>((resolve) => timer = setTimeout(() => resolve(false), timeMs));
  try {
    return await Promise.race([end, late]);
  } finally {
    clearTimeout(timer);
  }
}

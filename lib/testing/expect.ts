/**
 * The few assertions of the suites that this room exports: a test of another project needs no test framework of ours.
 * Each throws an Error that says what was expected and what came.
 */

/** Throws unless the condition holds; `what` is the sentence that should be true. */
export function expect(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(`not so: ${what}`);
}

/** Throws unless both are the same number, text or truth value. */
export function expectEqual<T extends number | string | boolean | undefined>(
  actual: T,
  expected: T,
  what: string,
): void {
  if (!Object.is(actual, expected)) throw new Error(`${what}: expected ${expected}, but it is ${actual}`);
}

/** Throws unless the operation's result is 0. */
export function expectDone(result: number | undefined, what: string): void {
  if (result !== 0) throw new Error(`${what} completed with ${result}, not with 0`);
}

/** Throws unless the operation failed: its result is a negative errno. */
export function expectFailed(result: number | undefined, what: string): void {
  if (result === undefined || !(result < 0)) throw new Error(`${what} completed with ${result}, not with an errno`);
}

/** Throws unless the bytes are the expected ones; says where the first difference is. */
export function expectBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  expectEqual(actual.length, expected.length, `${what}: bytes`);
  for (let i = 0; i < actual.length; i++) {
    if (actual[i] !== expected[i]) {
      throw new Error(`${what}: byte ${i} is ${actual[i]}, not ${expected[i]}`);
    }
  }
}

/** Throws unless the call throws an error of this class. */
export function expectThrows(
  call: () => void,
  errorClass: abstract new (...args: never[]) => Error,
  what: string,
): void {
  try {
    call();
  } catch (error) {
    if (error instanceof errorClass) return;
    throw new Error(`${what} threw another error than ${errorClass.name}`, { cause: error });
  }
  throw new Error(`${what} did not throw ${errorClass.name}`);
}

/** Rejects unless the promise rejects. */
export async function expectRejects(promise: Promise<unknown>, what: string): Promise<void> {
  if (await promise.then(() => true, () => false)) throw new Error(`${what} did not reject`);
}

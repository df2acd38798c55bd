/**
 * The protocol of the shared word of a {@linkcode WakeToken}. With it the sleeper announces that it is about to sleep, and
 * a waker learns whether it has to wake the sleeper. How the sleeper sleeps and is woken (eventfd, Atomics.wait) depends
 * on the platform.
 *
 * No wake is lost: a waker publishes its work, then exchanges; the sleeper announces its sleep, then sleeps, and looks
 * at all work after {@linkcode leavePark}. One superfluous return from a later park is possible and harmless.
 */

/** Bytes of a word. */
export const PARK_WORD_BYTES = Int32Array.BYTES_PER_ELEMENT;

/** The owner of the word runs, and was not woken since its last park. The value of a new word. */
export const RUNNING = 0;
/** The owner sleeps, or is just about to. */
export const PARKED = 1;
/** Somebody woke the owner since its last park. */
export const NOTIFIED = 2;

/** The sleeper, before it sleeps. False: it was woken since its last park and must not sleep (and is done parking). */
export function enterPark(word: Int32Array): boolean {
  if (Atomics.compareExchange(word, 0, RUNNING, PARKED) === RUNNING) return true;
  Atomics.store(word, 0, RUNNING);
  return false;
}

/** The sleeper, once it no longer sleeps, before it looks at any work. */
export function leavePark(word: Int32Array): void {
  Atomics.store(word, 0, RUNNING);
}

/** A waker, after its work is published. True: the sleeper sleeps, and this waker alone has to rouse it. */
export function claimWake(word: Int32Array): boolean {
  return Atomics.exchange(word, 0, NOTIFIED) === PARKED;
}

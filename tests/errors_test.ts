/**
 * What a person gets to read of anything that was thrown: the message with its remedy, and of an error during the
 * clean-up after another one both.
 */

import { assertEquals } from "@std/assert";
import { errorText, XenblkError } from "../lib/errors.ts";

Deno.test("the text of an error is its message and remedy, of anything else the thing itself", () => {
  assertEquals(errorText(new XenblkError("Cannot x", { remedy: "do y" })), "Cannot x; do y");
  assertEquals(errorText(new TypeError("no such thing")), "no such thing");
  assertEquals(errorText("text"), "text");
  const refuse = (): never => {
    throw new Error("not even that");
  };
  const untold = [Object.create(null), { toString: refuse }, new Proxy({}, { getPrototypeOf: refuse, get: refuse })];
  for (const each of untold) assertEquals(errorText(each), "an error without a text");
});

Deno.test("an error during the clean-up after another one does not hide that one", () => {
  const fail = (): void => {
    using _stack = new DisposableStack();
    _stack.defer(() => {
      throw new Error("cannot unmap");
    });
    throw new XenblkError("Cannot bind the event channel");
  };
  let text = "";
  try {
    fail();
  } catch (error) {
    text = errorText(error);
  }
  assertEquals(text, "Cannot bind the event channel (and then: cannot unmap)");
});

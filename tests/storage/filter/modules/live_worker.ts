/**
 * A thread that changes live options without end, to numbers that belong together.
 */

import { writeLive } from "../../../../lib/storage/filter/live.ts";

const thread = self as unknown as {
  onmessage: (event: MessageEvent<SharedArrayBuffer>) => void;
  postMessage(text: string): void;
};

thread.onmessage = ({ data }): void => {
  writeLive(data, [1, 1.5, -1]);
  thread.postMessage("writing");
  for (let value = 2;; value = value * 1.000001 + 1) writeLive(data, [value, value * 1.5, -value]);
};

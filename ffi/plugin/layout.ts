/**
 * The memory that a plugin's process shares with the one that serves its disk: words and a mailbox of the process, then for
 * each channel its words, a ring of requests, a ring of completions, and the requests' data. Both processes import this.
 */

/** Most channels to one plugin at a time. Memory that no channel touches takes none. */
export const MOST_CHANNELS = 16;

/** Words of the process. */
export const WORD = {
  /** 1: the plugin's process sleeps, or is about to, and has to be woken by its bell. */
  asleep: 0,
  /** Counts questions whether its event loop runs; and the last one that it has answered. */
  ping: 16,
  pong: 32,
  /** Counts commands of the mailbox, and the last one that was answered; bytes of the command and of the answer. */
  asked: 48,
  answered: 64,
  askBytes: 49,
  answerBytes: 65,
} as const;
/** Words of {@linkcode WORD}. */
export const HEADER_WORDS = 80;

/** The mailbox: a command and its answer, each JSON in UTF-8. */
export const ASK_AT = 4096;
export const MOST_ASK_BYTES = 4096;
export const ANSWER_AT = 8192;
export const MOST_ANSWER_BYTES = 32 << 10;

/** The process's part. */
export const HEADER_BYTES = 64 << 10;

/** Words of a channel, each in a cache line of its own. */
export const CHANNEL_WORD = {
  /** Changes whenever the rings begin anew: the epoch of the process that may serve them, and a count. 0: nobody may. */
  generation: 0,
  /** Index behind the last request, of the serving process. */
  requestTail: 16,
  /** Index behind the last completion, of the plugin's process. */
  completionTail: 32,
  /** 1: the reactor wants to be notified of the next completion. */
  armed: 48,
} as const;

/** Entries of each ring; a power of two, and more than a guest's ring has slots. */
export const RING_SIZE = 1024;

/** A request in 32-bit words: tag, operation, offset (low and high), length, and where its data lies in the data area. */
const REQUESTS_AT = 4096;
export const REQUEST_WORDS = 8;
export const REQUEST = { tag: 0, operation: 1, offsetLow: 2, offsetHigh: 3, lengthBytes: 4, dataAt: 5 } as const;

/** A completion: tag, and 0 or a negative errno. */
const COMPLETIONS_AT = REQUESTS_AT + RING_SIZE * REQUEST_WORDS * 4;
export const COMPLETION_WORDS = 2;

/** Data of requests in flight, in granules. */
const DATA_AT = 64 << 10;
export const DATA_BYTES = 8 << 20;
export const GRANULE_BYTES = 4096;

/** A channel's part. */
export const CHANNEL_BYTES: number = DATA_AT + DATA_BYTES;

/** All of the memory. */
export const MEMORY_BYTES: number = HEADER_BYTES + MOST_CHANNELS * CHANNEL_BYTES;

/** Where a channel's part begins. */
export function channelAt(channel: number): number {
  return HEADER_BYTES + channel * CHANNEL_BYTES;
}

/** What a generation begins with: the epoch, of which a process serves one. */
export function epochBits(epoch: number): number {
  return epoch & 0x7FFF;
}

/** The words of a channel's rings in a process that has the memory. */
export class ChannelMemory {
  readonly words: Int32Array;
  readonly requests: Int32Array;
  readonly completions: Int32Array;
  readonly data: Uint8Array;

  /** `buffer` holds the channel's part from the offset on. */
  constructor(buffer: ArrayBufferLike, offset: number) {
    this.words = new Int32Array(buffer, offset, REQUESTS_AT / 4);
    this.requests = new Int32Array(buffer, offset + REQUESTS_AT, RING_SIZE * REQUEST_WORDS);
    this.completions = new Int32Array(buffer, offset + COMPLETIONS_AT, RING_SIZE * COMPLETION_WORDS);
    this.data = new Uint8Array(buffer, offset + DATA_AT, DATA_BYTES);
  }
}

/** In front of a line that the plugin logs, on standard error: this character, and the first letter of the level. */
export const LEVEL_MARK = "\x01";

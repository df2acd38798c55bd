/**
 * Reads the shell commands in documents: the blocks of code with the language `sh`, each command in them as its words,
 * and the commands of xenblk in backticks. It knows as much of the shell's grammar as documents use: quotes, comments,
 * lists, pipes, substitutions, redirections, here-documents and continued lines.
 */

/** A block of code. */
export interface ShellBlock {
  /** Path of the document. */
  readonly document: string;
  readonly text: string;
}

/** The blocks of a document that are shell commands. */
export function shellBlocks(document: string, page: string): ShellBlock[] {
  return [...page.matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => ({ document, text: match[1]! }));
}

/** The code that begins with `xenblk`, in backticks or in indented lines, from the text outside of blocks. */
export function inlineCommands(page: string): string[] {
  const prose = page.replace(/^```.*?^```$/gms, "");
  const code = [...prose.matchAll(/`(xenblk [^`]+)`|^ {4}(xenblk .+)$/gm)].map((match) => match[1] ?? match[2]!);
  return code.map((text) => text.replace(/\s+/g, " "));
}

/** Each command of a script as its words, those in `$(...)` too. Variables stay as they are written. */
export function commandsOf(script: string): string[][] {
  return new Reader(script).commands;
}

/** Characters that end a word; all but the blanks end the command, too. */
const ENDS = " \t\n;|&()<>";

class Reader {
  readonly commands: string[][] = [];
  #words: string[] = [];
  #at = 0;
  /** Lines that end the here-documents that were begun in this line. */
  #documents: string[] = [];

  constructor(private readonly text: string) {
    while (this.#at < text.length) this.#step();
    this.#endCommand();
  }

  #step(): void {
    const next = this.text[this.#at]!;
    if (next === "#") {
      this.#skipTo("\n");
    } else if (next === "\\" && this.text[this.#at + 1] === "\n") {
      this.#at += 2;
    } else if (next === "<" || next === ">") {
      this.#redirect();
    } else if (ENDS.includes(next)) {
      this.#at++;
      if (next !== " " && next !== "\t") this.#endCommand();
      if (next === "\n") this.#skipDocuments();
    } else {
      this.#words.push(this.#word());
    }
  }

  #endCommand(): void {
    if (this.#words.length > 0) this.commands.push(this.#words);
    this.#words = [];
  }

  /** The target of a redirection is no word of the command. */
  #redirect(): void {
    const operator = /^(<<|[<>]&?|>>)/.exec(this.text.slice(this.#at))![0];
    this.#at += operator.length;
    while (this.text[this.#at] === " ") this.#at++;
    const target = this.#word();
    if (operator === "<<") this.#documents.push(target);
  }

  #skipDocuments(): void {
    for (const end of this.#documents) {
      const found = this.text.indexOf(`\n${end}\n`, this.#at - 1);
      this.#at = found === -1 ? this.text.length : found + end.length + 2;
    }
    this.#documents = [];
  }

  #skipTo(mark: string): void {
    const found = this.text.indexOf(mark, this.#at);
    this.#at = found === -1 ? this.text.length : found;
  }

  #word(): string {
    let word = "";
    while (this.#at < this.text.length && !ENDS.includes(this.text[this.#at]!)) word += this.#piece();
    return word;
  }

  #piece(): string {
    const next = this.text[this.#at]!;
    if (next === "'") return this.#quoted("'");
    if (next === '"') return this.#quoted('"');
    if (this.text.startsWith("$(", this.#at)) return this.#substitution();
    if (next === "\\") this.#at++;
    return this.text[this.#at++] ?? "";
  }

  #quoted(mark: string): string {
    let inner = "";
    for (this.#at++; this.#at < this.text.length && this.text[this.#at] !== mark;) {
      const isCommand = mark === '"' && this.text.startsWith("$(", this.#at);
      if (mark === '"' && this.text.startsWith("\\\n", this.#at)) this.#at += 2;
      else inner += isCommand ? this.#substitution() : this.text[this.#at++];
    }
    this.#at++;
    return inner;
  }

  /** Reads the commands in `$(...)`, which stands for some word. */
  #substitution(): string {
    const start = this.#at + 2;
    let depth = 1;
    for (this.#at = start; depth > 0 && this.#at < this.text.length; this.#at++) {
      depth += { "(": 1, ")": -1 }[this.text[this.#at]!] ?? 0;
    }
    this.commands.push(...commandsOf(this.text.slice(start, this.#at - 1)));
    return "substituted";
  }
}

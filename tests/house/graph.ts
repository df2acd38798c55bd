/**
 * The import graph of the checkout: its edges, its cycles and the edges that do not go down, and a report of them by
 * room. This module judges facts and reads no file.
 */

import { type Room, roomOf, ROOMS, targetOf } from "./import_rule.ts";
import type { ImportFact } from "./source.ts";

/** One file's reference to another; type-only and dynamic imports and Workers' URLs count like any import. */
export interface Edge {
  readonly from: string;
  readonly to: string;
}

/** A file, its length and what it refers to. */
export interface GraphFile {
  readonly path: string;
  readonly lineCount: number;
  readonly imports: readonly ImportFact[];
}

/** Distinct edges between TypeScript files. */
export function edgesOf(files: readonly Pick<GraphFile, "path" | "imports">[]): Edge[] {
  return files.flatMap(({ path, imports }) => {
    const relative = imports.filter(({ specifier, kind }) =>
      kind !== "computed" && specifier.startsWith(".") && specifier.endsWith(".ts")
    );
    const targets = new Set(relative.map(({ specifier }) => targetOf(path, specifier)));
    return [...targets].map((to) => ({ from: path, to }));
  });
}

/** `from -> to`. */
export function edgeText({ from, to }: Edge): string {
  return `${from} -> ${to}`;
}

/** Edges to another room that is not on a lower floor, and edges to or from a file that no room holds. */
export function upwardEdges(edges: readonly Edge[]): Edge[] {
  return edges.filter(({ from, to }) => {
    const [room, target] = [roomOf(from), roomOf(to)];
    return room === undefined || target === undefined || (room !== target && target.floor >= room.floor);
  });
}

/** Sets of files that import each other, directly or through others; each sorted by name. */
export function cycles(edges: readonly Edge[]): string[][] {
  const targets = Map.groupBy(edges, ({ from }) => from);
  const reached = new Map([...targets.keys()].map((path) => [path, reach(path, targets)]));
  const found = new Map<string, string[]>();
  for (const [path, paths] of reached) {
    if (!paths.has(path)) continue;
    const cycle = [...paths].filter((other) => reached.get(other)?.has(path)).sort();
    found.set(cycle[0]!, cycle);
  }
  return [...found.values()];
}

/** Everything that a file imports, directly or through others. */
function reach(start: string, targets: ReadonlyMap<string, readonly Edge[]>): Set<string> {
  const seen = new Set<string>();
  const left = [start];
  for (let path = left.pop(); path !== undefined; path = left.pop()) {
    for (const { to } of targets.get(path) ?? []) {
      if (seen.has(to)) continue;
      seen.add(to);
      left.push(to);
    }
  }
  return seen;
}

/** What `deno task graph` prints, and whether the graph is in order. */
export function report(files: readonly GraphFile[]): { readonly lines: string[]; readonly inOrder: boolean } {
  const edges = edgesOf(files);
  const [round, upward] = [cycles(edges), upwardEdges(edges)];
  const rooms = ROOMS.toSorted((one, other) => one.floor - other.floor);
  const lines = [
    ...rooms.flatMap((room) => roomLines(room, files, edges)),
    ...round.map((cycle) => `cycle: ${cycle.join(", ")}`),
    ...upward.map((edge) => `upward: ${edgeText(edge)}`),
    `${files.length} files, ${rooms.length} rooms, ${round.length} cycles, ${upward.length} upward imports`,
  ];
  return { lines, inOrder: round.length === 0 && upward.length === 0 };
}

/** A room's floor, name and size, and under it how many imports go to which other rooms. */
function roomLines(room: Room, files: readonly GraphFile[], edges: readonly Edge[]): string[] {
  const own = files.filter(({ path }) => roomOf(path) === room);
  const lineCount = own.reduce((sum, file) => sum + file.lineCount, 0);
  const out = edges.filter(({ from, to }) => roomOf(from) === room && roomOf(to) !== room);
  const counts = [...Map.groupBy(out, ({ to }) => roomOf(to)?.name ?? "no room")].map(([name, list]) =>
    `${name} ${list.length}`
  );
  const head = `floor ${String(room.floor).padStart(2)}  ${room.name}: ${own.length} files, ${lineCount} lines`;
  return counts.length === 0 ? [head] : [head, `          imports ${counts.sort().join(", ")}`];
}

/**
 * The status page: reads status.json each second, and shows the rates since the last reading in a table and in a plot of
 * the last five minutes for each disk, which begins with what the process has kept. What guests can choose is only ever set as text.
 */

const POLL_MS = 1000;
const KEPT_MS = 5 * 60 * 1000;
const WIDTH = 300;
const HEIGHT = 100;
const SVG = "http://www.w3.org/2000/svg";

/** Of each disk: its last figures, the points of its plots, and its elements. */
const shown = new Map();
/** Readings of each disk's counters from the time before this page was opened, oldest first. */
const past = await readPast();
const measure = document.getElementById("measure");

function make(name, properties = {}, children = []) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function short(value, unit) {
  if (!Number.isFinite(value)) return "–";
  const scaled = ["", "k", "M", "G", "T"].reduce(
    ([rest, prefix], next) => rest >= 999.5 && next !== "" ? [rest / 1000, next] : [rest, prefix],
    [value, ""],
  );
  const digits = scaled[0] >= 99.95 || Number.isInteger(scaled[0]) ? 0 : 1;
  return `${scaled[0].toFixed(digits)} ${scaled[1]}${unit}`.trim();
}

function milliseconds(ns) {
  return Number.isFinite(ns) ? `${(ns / 1e6).toFixed(ns < 1e7 ? 2 : 0)} ms` : "–";
}

/** An image without its size and the like, in parentheses at the end; the plot's caption has them. */
function nameOf(image) {
  return image.replace(/ \((?:[^()]|\([^()]*\))*\)$/, "");
}

/** What happened from one reading to the next, per second; the average wait of each kind is NaN without requests. */
function rates(before, now) {
  const seconds = (now.at_ms - before.at_ms) / 1000;
  const rate = (name) => Math.max(0, (now[name] - before[name]) / seconds);
  const wait = (operation) => {
    const [old, latest] = [before.latency[operation], now.latency[operation]];
    return latest.count > old.count ? (latest.sum_ns - old.sum_ns) / (latest.count - old.count) : NaN;
  };
  return {
    bytes: [rate("rd_bytes"), rate("wr_bytes")],
    requests: [rate("rd_req"), rate("wr_req")],
    wait: [wait("read"), wait("write")],
    busy: Math.min(1, rate("busy_ns") / 1e9),
  };
}

const COLUMNS = [
  ["Guest", "", (disk) => disk.domain],
  ["Disk", "", (disk) => disk.vdev],
  ["State", "", (disk) => disk.latched ? `${disk.state}, latched` : disk.state],
  ["Reads/s", "number", (_, now) => short(now.requests[0], "")],
  ["Writes/s", "number", (_, now) => short(now.requests[1], "")],
  ["Read/s", "number", (_, now) => short(now.bytes[0], "B")],
  ["Written/s", "number", (_, now) => short(now.bytes[1], "B")],
  ["Read wait", "number", (_, now) => milliseconds(now.wait[0])],
  ["Write wait", "number", (_, now) => milliseconds(now.wait[1])],
  ["In flight", "number", (disk) => String(disk.figures.in_flight)],
  ["Busy", "number", (_, now) => `${Math.round(100 * now.busy)} %`],
  ["Errors", "number", (disk) => String(disk.figures.errs)],
  ["Image", "text", (disk) => [nameOf(disk.image), disk.error, disk.waitsFor].filter((part) => part !== "").join("; ")],
];

/**
 * The elements of one disk: a row, and a figure with its plot. The roles are said because a row that is laid out as a card
 * is no row any more for a screen reader.
 */
function elements(disk) {
  const cells = COLUMNS.map(([label, className], index) => {
    const isHeading = index < 2;
    const cell = make(isHeading ? "th" : "td", { className, role: isHeading ? "rowheader" : "cell" });
    if (isHeading) cell.scope = "row";
    cell.dataset.label = label;
    return cell;
  });
  const plot = document.createElementNS(SVG, "svg");
  plot.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  plot.setAttribute("preserveAspectRatio", "none");
  plot.setAttribute("role", "img");
  const lines = ["read", "written"].map((name) => {
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("class", name);
    plot.append(line);
    return line;
  });
  const [read, written, most, image] = [make("data"), make("data"), make("span"), make("small")];
  const caption = make("figcaption", {}, [
    make("strong", { textContent: `${disk.domain} ${disk.vdev}` }),
    " up to ",
    most,
    make("small", {}, ["in all ", read, " read, ", written, " written"]),
    image,
  ]);
  return {
    row: make("tr", { role: "row" }, cells),
    cells,
    figure: make("figure", {}, [caption, plot]),
    plot,
    lines,
    read,
    written,
    most,
    image,
  };
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function showDisk(entry, disk, now) {
  COLUMNS.forEach(([, , text], index) => set(entry.cells[index], text(disk, now)));
  set(entry.image, disk.image);
  entry.cells[2].classList.toggle("bad", disk.latched);
  entry.cells.at(-1).classList.toggle("bad", disk.error !== "");
  for (const [element, bytes] of [[entry.read, disk.figures.rd_bytes], [entry.written, disk.figures.wr_bytes]]) {
    element.value = String(bytes);
    set(element, short(bytes, "B"));
  }
}

async function readPast() {
  const byDisk = new Map();
  try {
    const response = await fetch("history.json", { signal: AbortSignal.timeout(5 * POLL_MS) });
    for (const { disks } of (await response.json()).readings) {
      for (const [key, figures] of Object.entries(disks)) byDisk.set(key, [...byDisk.get(key) ?? [], figures]);
    }
  } catch { /* the plots begin now */ }
  return byDisk;
}

/** Counters that fell are those of a disk that was attached again. */
function follows(now, before) {
  return before !== undefined && before.rd_req <= now.rd_req && before.wr_req <= now.wr_req;
}

/** Gives a new entry the points of the past. */
function recall(entry, readings, latest) {
  const timeOf = ({ at_ms }) => performance.now() - (latest.at_ms - at_ms);
  let before;
  for (const reading of readings.filter(({ at_ms }) => at_ms < latest.at_ms)) {
    if (follows(reading, before)) entry.points.push({ atMs: timeOf(before), ...rates(before, reading) });
    before = reading;
  }
  if (!follows(latest, before)) return;
  entry.points.push({ atMs: timeOf(before), ...rates(before, latest) });
  entry.figures = before;
}

/** Draws the two lines of a disk over the last five minutes, or over as many as there are. */
function draw(entry) {
  const { points, lines, plot } = entry;
  const name = measure.value;
  const start = Math.max(points[0]?.atMs ?? 0, performance.now() - KEPT_MS);
  const span = Math.max(10 * POLL_MS, performance.now() - start);
  const most = Math.max(0, ...points.flatMap((point) => point[name].filter(Number.isFinite)));
  const value = name === "wait" ? milliseconds(most) : short(most, name === "bytes" ? "B/s" : "/s");
  const seconds = Math.round((performance.now() - start) / 1000);
  const text = `${value} in the last ${seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`}`;
  lines.forEach((line, index) => {
    const places = points.filter((point) => Number.isFinite(point[name][index])).map((point) => {
      const x = (point.atMs - start) / span * WIDTH;
      return `${x.toFixed(1)},${(HEIGHT - 2 - point[name][index] / (most || 1) * (HEIGHT - 6)).toFixed(1)}`;
    });
    line.setAttribute("points", places.join(" "));
  });
  set(entry.most, text);
  plot.setAttribute("aria-label", `${measure.selectedOptions[0].textContent}, up to ${text}`);
}

/** Puts elements in order, and removes those of disks that are gone; what is in place is not touched. */
function arrange(parent, wanted) {
  wanted.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}

function show(status) {
  const { process, disks } = status;
  const keys = disks.map((disk) => `${disk.kind}/${disk.domid}/${disk.vdev}`);
  for (const key of shown.keys()) if (!keys.includes(key)) shown.delete(key);
  const entries = disks.map((disk, index) => {
    const key = keys[index];
    const known = shown.get(key);
    const isSame = known !== undefined && known.domain === disk.domain && known.pid === process.pid &&
      follows(disk.figures, known.figures);
    const entry = isSame ? known : { ...elements(disk), points: [], domain: disk.domain, pid: process.pid };
    shown.set(key, entry);
    if (past.has(key)) recall(entry, past.get(key), disk.figures);
    past.delete(key);
    const isNew = entry.figures === undefined || disk.figures.at_ms > entry.figures.at_ms;
    if (isNew && entry.figures !== undefined) entry.now = rates(entry.figures, disk.figures);
    if (isNew) entry.figures = disk.figures;
    entry.now ??= { bytes: [NaN, NaN], requests: [NaN, NaN], wait: [NaN, NaN], busy: 0 };
    if (isNew) entry.points.push({ atMs: performance.now(), ...entry.now });
    while (entry.points.length > 0 && entry.points[0].atMs < performance.now() - KEPT_MS) entry.points.shift();
    showDisk(entry, disk, entry.now);
    draw(entry);
    return entry;
  });
  arrange(document.querySelector("#disks tbody"), entries.map(({ row }) => row));
  arrange(document.getElementById("plots"), entries.map(({ figure }) => figure));
  document.getElementById("none").hidden = disks.length > 0;
  const bad = disks.filter((disk) => disk.latched || disk.error !== "").length;
  set(
    document.getElementById("summary"),
    `${disks.length} ${disks.length === 1 ? "disk" : "disks"}, ${
      disks.filter(({ connected }) => connected).length
    } connected, ${bad} in trouble; ` +
      `version ${process.version}, process ${process.pid}, ${short(process.residentBytes, "B")} of memory`,
  );
}

async function poll() {
  const trouble = document.getElementById("trouble");
  try {
    const response = await fetch("status.json", { signal: AbortSignal.timeout(5 * POLL_MS) });
    if (!response.ok) throw new Error((await response.text()).trim());
    show(await response.json());
    trouble.hidden = true;
  } catch (error) {
    set(trouble, `The figures are not up to date: ${error.message}`);
    trouble.hidden = false;
  }
  setTimeout(poll, POLL_MS);
}

measure.addEventListener("change", () => shown.forEach(draw));
await poll();

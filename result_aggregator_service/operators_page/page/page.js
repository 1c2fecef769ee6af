// Reads history.json every five seconds and shows it. All text goes in as textContent.
"use strict";

const READ_EVERY_MS = 5000;
const GIVE_UP_MS = 4000;
const SHOWN_SECONDS = 900;
const WIDTH = 300;
const HEIGHT = 72;

// series, caption, unit
const CHARTS = [
  ["lag", "Lag of the group", "messages"],
  ["handled", "Messages handled", "/s"],
  ["published", "Announcements published", "/s"],
  ["reads", "Requests answered", "/s"],
  ["hit_rate", "Answers from the cache", "%"],
  ["outbox_depth", "Waiting in the outbox", "rows"],
  ["outbox_age", "Oldest in the outbox", "s"],
  ["quarantine", "In quarantine", "messages"],
];
const SERVERS = { postgres: "PostgreSQL", migrations: "Migrations", kafka: "Kafka", redis: "Redis" };
const SHAPES = {
  well: "M12 3a9 9 0 1 0 .01 0ZM8 12.2l2.8 2.8L16 9.4",
  watch: "M12 3.5 21.5 20h-19ZM12 10v4.5M12 17.2v.1",
  bad: "M8 3h8l5 5v8l-5 5H8l-5-5V8ZM9 9l6 6M15 9l-6 6",
  unknown: "M12 3a9 9 0 1 0 .01 0ZM9.6 9.6a2.5 2.5 0 1 1 3.4 2.3c-.7.3-1 .8-1 1.6M12 16.8v.1",
};

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short",
});
const shortClock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const at = (seconds) => clock.format(seconds * 1000);
const byId = (id) => document.getElementById(id);

let started = null;
let last = 0;
let samples = []; // {at, lag, handled, ...}, the oldest first
let lostSince = null;

function number(value) {
  if (value === null || value === undefined) return "not known";
  return value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 10 ? 1 : 0 });
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function shape(tone) {
  const made = svg("svg", { class: "shape", viewBox: "0 0 24 24", "aria-hidden": "true" });
  made.append(svg("path", { d: SHAPES[tone] }));
  return made;
}

// Every five seconds the same text: what has not changed is left alone, or a screen reader would tell it again.
function replaceIfChanged(parent, key, children) {
  if (parent.dataset.shown === key) return;
  parent.dataset.shown = key;
  parent.replaceChildren(...children());
}

function list(id, rows) {
  replaceIfChanged(byId(id), JSON.stringify(rows), () => rows.map(([name, tone, word]) => {
    const row = element("div");
    row.dataset.tone = tone;
    const state = element("dd");
    if (tone !== "plain") state.append(shape(tone));
    state.append(element("span", "word", word));
    row.append(element("dt", "", name), state);
    return row;
  }));
}

// ---- charts

class Chart {
  constructor([series, caption, unit]) {
    Object.assign(this, { series, caption, unit, picked: null });
    this.shown = element("span", "number", "–");
    this.unitShown = element("span", "unit", unit);
    this.atShown = element("span", "at");
    const value = element("p", "value");
    value.append(this.shown, this.unitShown, this.atShown);
    this.plot = svg("svg", {
      class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: "0",
    });
    this.area = svg("path", { class: "area" });
    this.trace = svg("path", { class: "trace" });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT });
    this.plot.append(svg("line", { class: "floor", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }), this.area, this.trace, this.cursor);
    this.least = element("span");
    this.most = element("span");
    const range = element("p", "range");
    range.append(this.least, this.most);
    this.figure = element("figure");
    this.figure.dataset.series = series;
    this.figure.append(element("figcaption", "", caption), value, this.plot, range);
    this.plot.addEventListener("pointermove", (event) => this.pick(this.nearest(event)));
    this.plot.addEventListener("pointerleave", () => this.pick(null));
    this.plot.addEventListener("blur", () => this.pick(null));
    this.plot.addEventListener("keydown", (event) => this.step(event));
  }

  nearest(event) {
    const box = this.plot.getBoundingClientRect();
    const wanted = this.end() - SHOWN_SECONDS * (1 - (event.clientX - box.left) / box.width);
    let best = null;
    for (const sample of samples) {
      if (best === null || Math.abs(sample.at - wanted) < Math.abs(best.at - wanted)) best = sample;
    }
    return best;
  }

  step(event) {
    if (event.key === "Escape") this.pick(null);
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    const from = this.picked === null ? samples.length : samples.indexOf(this.picked);
    const to = Math.min(Math.max(from + (event.key === "ArrowLeft" ? -1 : 1), 0), samples.length - 1);
    this.pick(samples[to] ?? null);
  }

  pick(sample) {
    this.picked = sample;
    this.draw();
  }

  end() {
    return samples.length ? samples[samples.length - 1].at : 0;
  }

  draw() {
    if (this.picked !== null && !samples.includes(this.picked)) this.picked = null;
    const known = samples.map((sample) => sample[this.series]).filter((value) => value !== null);
    const least = known.length ? Math.min(...known) : null;
    const most = known.length ? Math.max(...known) : null;
    const top = this.unit === "%" ? 100 : Math.max(most ?? 0, 1);
    const x = (sample) => WIDTH * (1 - (this.end() - sample.at) / SHOWN_SECONDS);
    const y = (value) => HEIGHT - 2 - (HEIGHT - 4) * (value / top);

    let trace = "";
    let area = "";
    let run = [];
    const close = () => {
      if (!run.length) return;
      const points = run.map((sample) => `${x(sample).toFixed(2)} ${y(sample[this.series]).toFixed(2)}`).join("L");
      trace += `M${points}${run.length === 1 ? "h.01" : ""}`;
      area += `M${x(run[0]).toFixed(2)} ${HEIGHT}L${points}L${x(run[run.length - 1]).toFixed(2)} ${HEIGHT}Z`;
      run = [];
    };
    for (const sample of samples) {
      if (sample[this.series] === null) close();
      else run.push(sample);
    }
    close();
    this.trace.setAttribute("d", trace);
    this.area.setAttribute("d", area);

    const shown = this.picked ?? samples[samples.length - 1];
    const value = shown ? shown[this.series] : null;
    const idle = value === null && this.series === "hit_rate" ? "none asked" : number(value);
    this.shown.textContent = idle;
    this.unitShown.hidden = value === null;
    this.atShown.textContent = this.picked ? shortClock.format(this.picked.at * 1000) : "";
    if (this.picked) {
      for (const side of ["x1", "x2"]) this.cursor.setAttribute(side, x(this.picked).toFixed(2));
    }
    this.cursor.style.visibility = this.picked ? "visible" : "hidden";
    this.least.textContent = known.length ? `min ${number(least)}` : "";
    this.most.textContent = known.length ? `max ${number(most)}` : "";
    const range = known.length ? `between ${number(least)} and ${number(most)} in the last 15 minutes` : "nothing known in the last 15 minutes";
    const when = this.picked ? `at ${at(this.picked.at)}` : "now";
    this.plot.setAttribute("aria-label", `${this.caption}: ${when} ${idle}${value === null ? "" : ` ${this.unit}`}; ${range}`);
  }
}

const charts = CHARTS.map((described) => new Chart(described));
byId("charts").append(...charts.map((chart) => chart.figure));

// ---- what is shown

function keep(history) {
  if (history.started !== started) {
    started = history.started;
    samples = [];
  }
  history.times.forEach((time, place) => {
    const sample = { at: time };
    for (const [series] of CHARTS) sample[series] = history.series[series][place];
    samples.push(sample);
  });
  last = history.last;
  const oldest = samples.length ? samples[samples.length - 1].at - SHOWN_SECONDS : 0;
  samples = samples.filter((sample) => sample.at > oldest);
}

function say({ tone, text, since }) {
  const sentence = since === null ? text : text.replace("{since}", at(since));
  const verdict = byId("verdict");
  verdict.dataset.tone = tone;
  replaceIfChanged(verdict, tone + sentence, () => [shape(tone), element("span", "", sentence)]);
}

function show(history) {
  say(history.verdict);
  list("servers", Object.entries(SERVERS).map(([name, title]) => {
    const state = history.servers[name];
    if (!state) return [title, "unknown", "not known"];
    if (name === "migrations") {
      if (!state.ok && history.servers.postgres && !history.servers.postgres.ok) return [title, "unknown", "not known"];
      return [title, state.ok ? "well" : "bad", state.ok ? "done" : "missing"];
    }
    return [title, state.ok ? "well" : "bad", state.ok ? "there" : `away since ${shortClock.format(state.since * 1000)}`];
  }));
  list("loops", Object.entries(history.loops).map(([name, loop]) => {
    const waits = loop.detail.startsWith("waiting for ");
    const detail = loop.detail.replace(/^waiting for /, "waits for ");
    return [name, loop.ok ? (waits ? "watch" : "well") : "bad", loop.ok ? detail : `stands: ${detail}`];
  }));
  const breakers = Object.entries(history.breakers).sort();
  list("breakers", breakers.map(([name, state]) => [SERVERS[name] ?? name, state === "closed" ? "well" : "watch", state]));
  list("replicas", [
    ["In the group", "plain", history.members === null ? "not known" : number(history.members)],
    ["Relay here", "plain", history.relay_active ? "publishes" : "stands by"],
    ["Parked rows", history.parked ? "watch" : "plain", history.parked === null ? "not known" : number(history.parked)],
    ["Version", "plain", history.version],
  ]);

  const reasons = Object.entries(history.quarantined ?? {}).sort(([, one], [, other]) => other - one);
  byId("quarantined-none").textContent = history.quarantined === null ? "Not known." : "No message is in quarantine.";
  byId("quarantined").hidden = !reasons.length;
  byId("quarantined-none").hidden = reasons.length > 0;
  replaceIfChanged(byId("quarantined").tBodies[0], JSON.stringify(reasons), () => reasons.map(([reason, count]) => {
    const row = element("tr");
    row.append(element("td", "", reason.replaceAll("_", " ")), element("td", "", number(count)));
    return row;
  }));
  for (const chart of charts) chart.draw();
  byId("read").textContent = `Read at ${at(history.now)}`;
}

async function read() {
  const asked = `history.json?after=${last}`;
  try {
    const response = await fetch(asked, { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const history = await response.json();
    if (started !== null && history.started !== started) { // another process: its samples are numbered anew
      last = 0;
      started = null;
      return await read();
    }
    keep(history);
    show(history);
    lostSince = null;
  } catch {
    lostSince ??= Date.now() / 1000;
  }
  document.body.classList.toggle("stale", lostSince !== null);
  if (lostSince !== null) {
    say({ tone: "bad", text: "No contact with the service since {since}. What is shown is from before.", since: lostSince });
  }
}

async function readOnAndOn() {
  await read();
  setTimeout(readOnAndOn, READ_EVERY_MS);
}

readOnAndOn();

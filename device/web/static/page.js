// The wearer's page: asks affectd for a rest, for labels, for how things are, and shows its words as they are.
"use strict";

const STATUS_MS = 3000;
const at = (id) => document.getElementById(id);
const key = location.hash.slice(1);
let rest = null; // of the one that runs: how to end it, and how far it is

function ask(path, body, signal) {
  const headers = { "X-Affectd-Key": key };
  if (body === undefined) return fetch(path, { headers });
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function answer(response) {
  const said = await response.json();
  if (!response.ok) throw new Error(`${said.error}; ${said.remedy}`);
  return said;
}

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function tell(place, lines, className = "") {
  at(place).replaceChildren(...lines.map((line) => element("p", line, className)));
}

function wrong(place, error) {
  const gone = error instanceof TypeError; // fetch found nobody
  tell(place, [gone ? "affectd web does not answer; is it still running?" : error.message], "error");
}

// how things are

async function look() {
  try {
    const said = await answer(await ask("/api/status"));
    at("newest").textContent = said.lines.join(" · ");
    at("sensors").replaceChildren(...said.sensors.map((sensor) => {
      const made = element("li", `${sensor.name}: ${sensor.state}`, sensor.state === "streaming" ? "good" : "bad");
      made.title = sensor.reason || "";
      return made;
    }));
  } catch (error) {
    at("newest").textContent = error instanceof TypeError ? "affectd web does not answer" : error.message;
    at("sensors").replaceChildren();
  }
}

// a rest

async function begin(event) {
  event.preventDefault();
  const asked = { minutes: Number(at("minutes").value), person: at("person").value.trim() || null };
  rest = { stop: new AbortController(), whole: 60 * asked.minutes, since: performance.now() };
  at("begin").hidden = true;
  at("outcome").replaceChildren();
  try {
    const response = await ask("/api/rest", asked, rest.stop.signal);
    if (!response.ok) await answer(response);
    for await (const line of lines(response)) step(JSON.parse(line));
    if (!at("outcome").hasChildNodes()) tell("outcome", ["It ended before the rest was over; nothing is written."], "error");
  } catch (error) {
    if (error.name === "AbortError") tell("outcome", ["Ended; nothing is written."]);
    else wrong("outcome", error);
  }
  rest = null;
  at("resting").hidden = true;
  at("begin").hidden = false;
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const whole = (waiting + part.value).split("\n");
    waiting = whole.pop();
    yield* whole;
  }
}

function step(said) {
  if (said.error) return tell("outcome", [`${said.error}; ${said.remedy}`], "error");
  if (said.outcome) return tell("outcome", said.outcome);
  at("resting").hidden = false;
  at("guide").textContent = said.guide;
  at("signals").replaceChildren(...Object.entries(said.states).map(([name, state]) =>
    element("li", `${name.toUpperCase()}: ${state}`, said.problems.includes(name) ? "bad" : "good")));
  tell("outcome", said.warnings, "error");
  rest.whole = said.rest_s;
  tick();
}

// The clock runs by itself between two steps; what a step says of the time is some seconds old.
function tick() {
  if (!rest) return;
  const done = Math.min((performance.now() - rest.since) / 1000, rest.whole);
  const left = Math.ceil(rest.whole - done);
  at("left").textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  at("ring").style.strokeDasharray = `${100 * done / rest.whole} 100`;
  if (!left) at("guide").textContent = "almost there: the last window is on its way";
}

// labels

async function label(request) {
  for (const button of document.querySelectorAll("#labels button, #undo")) button.disabled = true;
  try {
    const said = await answer(await ask("/api/label", request));
    at("labels").replaceChildren(...Object.entries(said.labels).map(([name, count]) => {
      const button = element("button", `${name} `);
      button.append(element("small", count ? `(${count})` : ""));
      button.onclick = () => label({ label: name });
      return button;
    }));
    at("undo").hidden = !Object.values(said.labels).some((count) => count);
    tell("labelled", said.lines);
  } catch (error) {
    wrong("labelled", error);
  }
  for (const button of document.querySelectorAll("#labels button, #undo")) button.disabled = false;
}

at("begin").onsubmit = begin;
at("end").onclick = () => rest && rest.stop.abort();
at("undo").onclick = () => label({ undo: true });
window.onbeforeunload = (event) => { if (rest) event.preventDefault(); };
setInterval(tick, 1000);
setInterval(look, STATUS_MS);
look();
label({});

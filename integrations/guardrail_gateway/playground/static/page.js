"use strict";
// Nothing here is ever parsed as HTML: text enters the page through textContent alone, and the page's policy
// (trusted types) refuses everything else.

const $ = (id) => document.getElementById(id);
const POLL_MS = 3000;
const ROWS = 50;
const WORDS = { allow: "✓ Allowed", block: "✕ Blocked", escalate: "! Escalated", edit: "✎ Edited" };
const RAILS = { input: "Question", output: "Answer", tool_call: "Tool call", tool_output: "Tool output" };
const PARTS = { queue: "Queue", guardian: "Guardian", response: "Safeguard response", model: "Model" };

let key = "";
let hazards = {};
let verdicts = [];
let running = null;
let last = 0;
let waiting = 0;

function made(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  return element;
}

const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)}\u00a0%`);
const seconds = (value) =>
  value === null || value === undefined ? "–" : value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(2)} s`;
const named = (code) => (code ? `${code} ${hazards[code] ?? ""}`.trim() : "–");

// ---- the gateway

async function call(path, options = {}) {
  const headers = { ...(key ? { authorization: `Bearer ${key}` } : {}), ...options.headers };
  const answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  if (answer.status === 401) {
    $("door").hidden = false;
    $("door-told").textContent = key ? "The gateway does not know this key." : "";
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    const error = new Error(told.error?.message ?? `The gateway answered ${answer.status}.`);
    error.retryMs = 1000 * Number(answer.headers.get("retry-after") ?? 0);
    throw error;
  }
  return answer;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

// ---- one question

function clear() {
  verdicts = [];
  for (const id of ["rails", "released", "dropped", "times", "split", "status", "trouble"]) $(id).replaceChildren();
  $("dropped").hidden = true;
  $("slider-part").hidden = true;
  $("empty").hidden = false;
  $("empty").textContent = "The guardian is reading…";
  $("held-told").textContent = "Held text stays on the server until it is judged.";
  $("held").classList.remove("dropped");
  showHeld(0);
}

function showHeld(count) {
  $("held-count").textContent = count.toLocaleString("en");
  $("held-word").textContent = count === 1 ? "character" : "characters";
  $("held").style.width = `${Math.min(100, count / 4)}%`;
}

const heard = {
  rail(told) {
    $("empty").hidden = true;
    verdicts.push(told);
    $("rails").append(railOf(told));
    showSlider();
  },
  text(told) { $("released").append(told.text); },
  held(told) { showHeld(told.characters); },
  instead(told) { $("released").append(made("span", "instead", told.text)); },
  dropped(told) {
    $("dropped").hidden = false;
    $("dropped").textContent = told.text;
  },
  error(told) { $("trouble").textContent = `${told.message} (${told.code})`; },
  end(told) {
    showTimes(told.timing);
    if (verdicts.length === 0) $("empty").textContent = "No rail judged this.";
    const count = told.dropped.toLocaleString("en");
    if (!told.asked_model) $("held-told").textContent = "The model behind never saw the message.";
    else if (told.dropped > 0) {
      showHeld(told.dropped);
      $("held").classList.add("dropped");
      $("held-told").textContent = `Dropped: ${count} characters never left; a safeguard response took their place.`;
    } else $("held-told").textContent = "Nothing was dropped: all that the model wrote was released.";
    const ends = verdicts.map((one) => `${RAILS[one.rail] ?? one.rail}: ${(WORDS[one.action] ?? one.action).slice(2)}. `);
    $("status").textContent = `Done. ${ends.join("")}${told.released.toLocaleString("en")} characters released, ` +
      `${count} dropped, ${told.checks} ${told.checks === 1 ? "check" : "checks"}.`;
  },
};

function railOf(told) {
  const box = made("div", "rail");
  const head = made("div", "rail-head");
  head.append(made("strong", "", RAILS[told.rail] ?? told.rail));
  head.append(made("span", `badge ${told.action}`, WORDS[told.action] ?? told.action));
  if (told.harmful && told.hazard) head.append(made("span", "", named(told.hazard)));
  box.append(head);
  if (told.risk === null || told.risk === undefined) {
    box.append(made("p", "quiet", `No verdict: ${told.error ?? "not judged"}.`));
    return box;
  }
  const bars = made("ul", "bars");
  bars.append(barOf("Risk in all", told.risk, told.in_force, true));
  const found = Object.entries(told.hazards ?? {}).filter(([, p]) => p >= 0.005).sort(([, a], [, b]) => b - a);
  for (const [code, p] of found.slice(0, 6)) bars.append(barOf(named(code), p));
  box.append(bars);
  const windows = `${told.windows} ${told.windows === 1 ? "window" : "windows"}`;
  const checks = told.checks ? ` · ${told.checks} ${told.checks === 1 ? "check" : "checks"} while it was written` : "";
  box.append(made("p", "quiet", `${windows}${checks} · ${seconds(told.seconds)} · threshold ${percent(told.in_force)}` +
    (told.truncated ? " · cut short" : "")));
  return box;
}

function barOf(name, value, threshold, all = false) {
  const item = made("li", all ? "all" : "");
  const bar = made("div", threshold !== undefined && value >= threshold ? "bar over" : "bar");
  bar.dataset.risk = value;
  const fill = made("i");
  fill.style.width = `${100 * value}%`;
  bar.append(fill);
  if (threshold !== undefined) {
    const mark = made("b");
    mark.style.left = `${100 * threshold}%`;
    bar.append(mark);
  }
  bar.setAttribute("aria-hidden", "true");
  item.append(made("span", "", name), bar, made("span", "value", percent(value)));
  return item;
}

function showSlider() {
  const judged = verdicts.filter((told) => told.decisions?.length);
  if (!judged.length) return;
  if ($("slider-part").hidden) {
    $("threshold").value = judged[0].in_force;
    $("slider-part").hidden = false;
  }
  decide();
}

function decide() {
  const at = Number($("threshold").value);
  $("threshold-value").textContent = percent(at);
  $("threshold").setAttribute("aria-valuetext", percent(at));
  for (const bar of document.querySelectorAll(".all .bar")) {
    bar.querySelector("b").style.left = `${100 * at}%`;
    bar.classList.toggle("over", Number(bar.dataset.risk) >= at - 1e-9);
  }
  const told = verdicts.filter((one) => one.decisions?.length).map((one) => {
    // The server sent what its policy orders from each threshold on: nothing is judged again.
    const action = one.decisions.filter(([from]) => from <= at + 1e-9).at(-1)[1];
    const same = action === one.action ? "as it was" : `it was: ${WORDS[one.action] ?? one.action}`;
    return `${RAILS[one.rail] ?? one.rail}: ${WORDS[action] ?? action} (${same})`;
  });
  $("what-if").textContent = `At ${percent(at)}: ${told.join(" · ")}`;
}

function showTimes(timing) {
  $("times").replaceChildren();
  $("split").replaceChildren();
  const parts = Object.keys(PARTS).map((part) => [part, timing[`${part}_s`]]);
  const sum = parts.reduce((so_far, [, value]) => so_far + (value ?? 0), 0) || 1;
  for (const [part, value] of parts) {
    if (value) {
      const piece = made("i", part);
      piece.style.width = `${(100 * value) / sum}%`;
      $("split").append(piece);
    }
    const missing = part === "queue" ? "no pool" : "not asked";
    $("times").append(pair(PARTS[part], value === null ? missing : seconds(value), part));
  }
  $("times").append(pair("Total", seconds(timing.total_s)));
}

function pair(term, text, className = "") {
  const box = made("div", className);
  box.append(made("dt", "", term), made("dd", "", text));
  return box;
}

async function ask(event) {
  event?.preventDefault();
  if (running || !$("ask").reportValidity()) return;
  clear();
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  $("status").textContent = "Asking…";
  try {
    const body = JSON.stringify({ message: $("message").value, model: $("model").value });
    const headers = { "content-type": "application/json" };
    const answer = await call("/playground/ask", { method: "POST", body, headers, signal: running.signal });
    let ended = false;
    for await (const told of events(answer)) {
      heard[told.kind]?.(told);
      ended ||= told.kind === "end" || told.kind === "error";
    }
    if (!ended) $("trouble").textContent = "The answer broke off.";
  } catch (error) {
    if (error.name === "AbortError") $("status").textContent = "Stopped.";
    else $("trouble").textContent = error.message;
  } finally {
    running = null;
    $("send").disabled = false;
    $("stop").disabled = true;
    if ($("status").textContent === "Asking…") $("status").textContent = "";
    if (verdicts.length === 0) $("empty").textContent = "No verdict.";
    soon(0);
  }
}

// ---- the last verdicts

function soon(delay) {
  clearTimeout(waiting);
  waiting = setTimeout(follow, delay);
}

async function follow() {
  let next = POLL_MS;
  if (document.hidden || !$("follow").checked || !$("door").hidden) return;
  try {
    const told = await (await call(`/playground/live?after=${last}`)).json();
    if (told.last < last) $("rows").replaceChildren();
    if (told.verdicts.length) addRows(told.verdicts);
    last = told.last;
    showLoad(told);
    $("live-told").textContent = "Of all callers; numbers and words, never text.";
  } catch (error) {
    $("live-told").textContent = `Not up to date: ${error.message}`;
    next = Math.max(3 * POLL_MS, error.retryMs ?? 0);
  }
  soon(next);
}

function addRows(news) {
  if ($("rows").querySelector("td[colspan]")) $("rows").replaceChildren();
  for (const told of news) {
    const row = made("tr");
    row.append(
      made("td", "", new Date(1000 * told.at_s).toLocaleTimeString([], { hour12: false })),
      made("td", "", RAILS[told.rail] ?? told.rail),
      made("td", told.action, WORDS[told.action] ?? told.action),
      hazardCell(told),
      made("td", "", percent(told.risk)),
      made("td", "", told.seconds.toFixed(3)),
    );
    $("rows").prepend(row);
  }
  while ($("rows").children.length > ROWS) $("rows").lastElementChild.remove();
}

function hazardCell(told) {
  const cell = made("td", "", told.error ?? told.hazard ?? "–");
  if (!told.error && hazards[told.hazard]) cell.append(made("span", "name", ` ${hazards[told.hazard]}`));
  return cell;
}

function showLoad(told) {
  const pool = told.pool;
  const pairs = [["In progress", told.running], ["Refused so far", told.refused]];
  if (pool) {
    const busy = pool.slots.filter((slot) => slot.phase !== "idle" && slot.phase !== "retired").length;
    pairs.push(["Pool", pool.phase], ["Waiting in queue", pool.queued], ["Running", pool.running]);
    pairs.push(["Busy slots", `${busy} of ${pool.slots.length}`], ["Mean wait", seconds(pool.wait_s)]);
    pairs.push(["Mean run", seconds(pool.run_s)], ["Mean batch", pool.batch.toFixed(1)]);
  } else pairs.push(["Pool", "none: the guardian runs elsewhere"]);
  if (told.unready) pairs.push(["Not ready", told.unready]);
  $("load").replaceChildren(...pairs.map(([term, value]) => pair(term, String(value))));
}

// ---- the beginning

async function begin() {
  try {
    const about = await (await call("/playground/about")).json();
    hazards = about.hazards;
    $("door").hidden = true;
    $("about").textContent = `Guardian ${about.guardian} · policy ${about.policy} · rails ${about.rails.join(", ")} · ` +
      `window ${about.window}${about.shows_held ? " · developer: blocked text is shown" : ""}`;
    soon(0);
    const list = await (await call("/v1/models")).json();
    const names = (list.data ?? []).map((model) => model.id);
    if (names.length) $("model").replaceChildren(...names.map((name) => new Option(name, name)));
  } catch (error) {
    if ($("door").hidden) $("trouble").textContent = error.message;
    else if (!key) $("key").focus();
  }
}

$("ask").addEventListener("submit", ask);
$("stop").addEventListener("click", () => running?.abort());
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event);
});
$("threshold").addEventListener("input", decide);
$("follow").addEventListener("change", () => soon(0));
document.addEventListener("visibilitychange", () => soon(0));
$("door-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  begin();
});
begin();

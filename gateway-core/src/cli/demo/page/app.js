"use strict";

// ---- what a close code means, and whether coming back can help

const CLOSED = {
  1000: ["Closed normally", "The conversation is over.", false],
  1001: ["Going away", "One side left.", true],
  1002: ["Protocol error", "The gateway could not understand this client.", false],
  1003: ["Unsupported data", "A kind of message that is not accepted here.", false],
  1005: ["No code given", "The connection was closed without a reason.", true],
  1006: ["Connection lost", "The gateway cannot be reached, or the network dropped the connection.", true],
  1007: ["Invalid text", "A text message was not valid UTF-8.", false],
  1008: ["Policy", "A rule of the operator or of the chat service.", false],
  1009: ["Message too big", "A message went over the size limit.", false],
  1011: ["Gateway error", "The gateway failed.", true],
  1012: ["Restart", "The gateway is restarting or being drained.", true],
  1013: ["Overload", "The gateway has too much to do just now.", true],
  4400: ["Bad request", "The name is empty, too long, or not valid.", false],
  4401: ["Not authorised", "The gateway does not accept these credentials.", false],
  4403: ["Origin not allowed", "This page's address may not connect here.", false],
  4408: ["Too slow", "This client read too slowly, or answered no ping.", true],
  4409: ["Replaced", "A newer connection of this name took its place.", false],
  4503: ["No service", "No chat service takes messages at the moment.", true],
};

// ---- state

const $ = (id) => document.getElementById(id);
const HISTORY = 60;
const MOST_ITEMS = 500;

let socket = null;
let wanted = null; // {name, room} while we mean to be connected
let attempt = 0;
let timer = 0;
let tag = Math.floor(Math.random() * 2 ** 31); // unlike those of our other tabs
const sentAt = new Map();
const rates = new Map();

// ---- connection

function connect() {
  clearTimeout(timer);
  state("busy", "Connecting…");
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const ws = new WebSocket(`${scheme}://${location.host}/ws?user=${encodeURIComponent(wanted.name)}`);
  socket = ws;
  ws.onopen = () => {
    if (ws !== socket) return;
    state("open", "Connected");
    say({ type: "join", room: wanted.room });
  };
  ws.onmessage = (event) => {
    if (ws === socket) receive(JSON.parse(event.data));
  };
  ws.onclose = (event) => {
    if (ws === socket) closed(event.code, event.reason);
  };
}

function closed(code, reason) {
  socket = null;
  sentAt.clear();
  $("send").disabled = true;
  if (!wanted) return;
  const [title, meaning, again] = CLOSED[code] ||
    [code >= 4000 ? "Closed by the service" : "Closed", "", code < 4000];
  if (!again) {
    wanted = null;
    state("closed", `Closed (${code})`);
    notice(code, title, meaning, reason, "");
    show("lobby");
    return;
  }
  const delay = retryDelay(reason);
  state("busy", "Reconnecting…");
  countDown(performance.now() + delay, (left) =>
    notice(code, title, meaning, reason, `Reconnecting in ${Math.ceil(left / 1000)} s.`));
}

/** What the gateway asks for (`retry_after_ms=N`), otherwise backoff with full jitter. */
function retryDelay(reason) {
  const asked = /retry_after_ms=(\d+)/.exec(reason || "");
  if (asked) return Math.min(Number(asked[1]), 120_000);
  const ceiling = Math.min(15_000, 500 * 2 ** attempt++);
  return 250 + Math.random() * ceiling;
}

function countDown(until, tell) {
  const left = until - performance.now();
  if (left <= 0) return connect();
  tell(left);
  timer = setTimeout(() => countDown(until, tell), Math.min(left, 1000));
}

function say(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

// ---- what the service says

function receive(message) {
  switch (message.type) {
    case "joined": return joined(message);
    case "said": return said(message);
    case "members": return members(message.members);
    case "notice": return item("event", `${message.name} ${message.what}`);
    case "stats": return stats(message);
    case "error": return item("event", message.text);
  }
}

function joined({ room, shard, history }) {
  attempt = 0;
  $("notice").hidden = true;
  $("title").textContent = room;
  badge($("shard"), shard);
  $("messages").replaceChildren();
  history.forEach(said);
  $("send").disabled = false;
  show("chat");
  $("message").focus();
}

function said({ name, shard, text, at, tag }) {
  const who = make("div", "who");
  who.append(make("span", "", name), badge(make("span", ""), shard), clock(at));
  append("message", who, make("div", "text", text));
  const start = name === (wanted && wanted.name) ? sentAt.get(tag) : undefined;
  if (start === undefined) return;
  sentAt.delete(tag);
  $("round-trip").textContent = `${(performance.now() - start).toFixed(1)} ms`;
}

function members(list) {
  $("head-count").textContent = list.length;
  $("members").replaceChildren(...list.map(({ name, shard, tabs }) => {
    const row = make("li", "");
    row.append(make("span", "label", name));
    if (tabs > 1) row.append(make("span", "times", `${tabs} tabs`));
    row.append(badge(make("span", ""), shard));
    row.title = `${name} is on shard ${shard}`;
    return row;
  }));
}

function stats({ driver, shards }) {
  $("totals").hidden = false;
  $("driver").textContent = driver;
  for (const figures of shards) {
    const rate = rates.get(figures.shard) || [];
    rate.push(figures.out);
    if (rate.length > HISTORY) rate.shift();
    rates.set(figures.shard, rate);
  }
  const highest = Math.max(10, ...[...rates.values()].flat());
  $("shards").replaceChildren(...shards.map((figures) => shardRow(figures, highest)));
}

function shardRow({ shard, connections, in: taken, out, crossings }, highest) {
  const row = make("li", "tone");
  row.dataset.tone = shard % 4;
  const head = make("header", "");
  head.append(make("b", "", `Shard ${shard}`),
    make("span", "", connections === 1 ? "1 connection" : `${connections} connections`));
  const figures = make("dl", "figures");
  for (const [name, value] of [["in /s", taken], ["out /s", out], ["crossings", crossings]]) {
    const pair = make("div", "");
    pair.append(make("dt", "", name), make("dd", "", value.toLocaleString("en")));
    figures.append(pair);
  }
  row.append(head, spark(rates.get(shard), highest), figures);
  return row;
}

function spark(values, highest) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const start = HISTORY - values.length;
  const points = values.map((value, at) => `${start + at},${20 - (value / highest) * 20}`);
  svg.setAttribute("viewBox", `0 0 ${HISTORY - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}

// ---- the page. User text only ever becomes text nodes.

function make(tagName, className, text) {
  const element = document.createElement(tagName);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function badge(element, shard) {
  element.classList.add("badge");
  element.textContent = shard;
  element.dataset.tone = shard % 4;
  return element;
}

function clock(at) {
  const time = make("time", "", new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = new Date(at).toISOString();
  return time;
}

function item(className, text) {
  append(className, document.createTextNode(text));
}

function append(className, ...children) {
  const list = $("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  const row = make("li", className);
  row.append(...children);
  list.append(row);
  while (list.childElementCount > MOST_ITEMS) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function state(kind, text) {
  $("status").dataset.state = kind;
  $("status").textContent = text;
}

function notice(code, title, meaning, reason, next) {
  const parts = [make("b", "", `${code} ${title}.`), ` ${meaning}`];
  if (reason) parts.push(` It said “${reason}”.`);
  if (next) parts.push(` ${next}`);
  $("notice").replaceChildren(...parts);
  $("notice").hidden = false;
}

function show(what) {
  $("lobby").hidden = what !== "lobby";
  $("chat").hidden = what !== "chat";
  document.body.dataset.view = what;
}

function join() {
  wanted = { name: $("name").value.trim(), room: $("room").value.trim() };
  if (!wanted.name || !wanted.room) return (wanted = null);
  $("notice").hidden = true;
  attempt = 0;
  history.replaceState(null, "", `?${new URLSearchParams(wanted)}`);
  document.title = `${wanted.name} in ${wanted.room} · Ringway`;
  connect();
}

function leave() {
  clearTimeout(timer);
  say({ type: "leave" });
  wanted = null;
  if (socket) socket.close(1000);
  socket = null;
  $("notice").hidden = true;
  history.replaceState(null, "", location.pathname);
  document.title = "Ringway demo";
  state("idle", "Not connected");
  show("lobby");
}

$("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  join();
});
$("leave").addEventListener("click", leave);
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || !socket || socket.readyState !== WebSocket.OPEN) return;
  sentAt.set(++tag, performance.now());
  say({ type: "say", text, tag });
  $("message").value = "";
});

const asked = new URLSearchParams(location.search);
if (asked.get("name")) {
  $("name").value = asked.get("name");
  if (asked.get("room")) $("room").value = asked.get("room");
  join();
} else {
  $("name").focus();
}

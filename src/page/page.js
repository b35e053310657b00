// @ts-check
// What the page gains by script: it stays up to date, follows output, copies commands and has keys. Nothing here makes
// markup of text: nodes come from the server's own HTML, or are made one by one.

/** The number of milliseconds between two looks of a page that is not seen. */
const HIDDEN_EVERY = 15_000;
/** How long an answer may take, and the opening of a stream, in milliseconds. */
const ANSWERS_WITHIN = 5_000;
const OPENS_WITHIN = 3_000;
/** How many lines of followed output are kept. */
const LINES_MOST = 2_000;
/** The widest line of followed output, in characters: what goes on beyond is cut, and marked. */
const COLUMNS_MOST = 20_000;

const seconds = Number(document.body.dataset.live);
let paused = false;
/** @type {string | null} */
let tag = null;
let answeredAt = new Date();

// --- Staying up to date ---

/** Makes `old` what `next` is, node by node, so that focus, selection and open details stay.
 * @param {Element} old @param {Element} next */
function morph(old, next) {
  if (old.hasAttribute("data-keep") && next.hasAttribute("data-keep")) return;
  if (old.nodeName !== next.nodeName || old.id !== next.id) return old.replaceWith(next);
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old === document.activeElement && old.nodeName === "INPUT") return;
  const olds = [...old.childNodes];
  const nexts = [...next.childNodes];
  nexts.forEach((child, index) => {
    const before = olds[index];
    if (!before) old.append(child);
    else if (before instanceof Element && child instanceof Element) morph(before, child);
    else if (before.nodeType === child.nodeType && before.nodeType === Node.TEXT_NODE) {
      if (before.nodeValue !== child.nodeValue) before.nodeValue = child.nodeValue;
    } else before.replaceWith(child);
  });
  olds.slice(nexts.length).forEach((child) => child.remove());
}

/** Asks the node, which has to answer soon.
 * @param {string} address @param {Record<string, string>} headers */
function ask(address, headers) {
  const signal = AbortSignal.timeout(ANSWERS_WITHIN);
  return fetch(address, { headers, signal, cache: "no-store", credentials: "same-origin" });
}

/** Asks for this page again, and shows what differs. */
async function look() {
  /** @type {Record<string, string>} */
  const headers = tag ? { "If-None-Match": tag } : {};
  const answer = await ask(location.href, headers);
  lost(false);
  if (answer.status === 304) return;
  if (answer.redirected) return location.reload();
  const text = await answer.text();
  if (!answer.ok && !text.includes('id="main"')) return;
  tag = answer.headers.get("etag");
  const next = new DOMParser().parseFromString(text, "text/html");
  enhance(next);
  document.title = next.title;
  for (const id of ["top", "main", "foot"]) {
    const [old, fresh] = [document.getElementById(id), next.getElementById(id)];
    if (old && fresh && !holdsSelection(old)) morph(old, fresh);
  }
}

/** Whether text in it is selected: it would be lost.
 * @param {Element} element */
function holdsSelection(element) {
  const selection = getSelection();
  return !!selection && !selection.isCollapsed && element.contains(selection.anchorNode);
}

/** Says that the node does not answer, or does again.
 * @param {boolean} isLost */
function lost(isLost) {
  const pill = document.getElementById("pill");
  if (!isLost) answeredAt = new Date();
  if (!pill || isLost === pill.hasAttribute("data-lost")) return;
  pill.toggleAttribute("data-lost", isLost);
  document.getElementById("lost")?.remove();
  if (isLost) {
    const since = answeredAt.toISOString().replace("T", " ").replace(/\..*/, "Z");
    pill.className = "pill unk";
    pill.textContent = "? not known";
    document.title = "not known · this node does not answer · fencron";
    const heading = document.getElementById("firing");
    if (heading) heading.textContent = "Not known";
    const notice = document.createElement("p");
    notice.id = "lost";
    notice.className = "notice unk";
    notice.textContent = `This node has not answered since ${since}: what stands here is from then. Ask another node.`;
    document.getElementById("main")?.prepend(notice);
    tag = null;
  }
}

async function lookOn() {
  if (!paused) await look().catch(() => lost(true));
  setTimeout(lookOn, document.hidden ? HIDDEN_EVERY : seconds * 1000);
}

// --- Times, and commands that can be copied ---

/** Gives what the server wrote what only a script can.
 * @param {Document} root */
function enhance(root) {
  tell(root);
  for (const time of root.querySelectorAll("time")) {
    time.title = `${time.dateTime}, here ${new Date(time.dateTime).toLocaleString()}`;
  }
  for (const code of root.querySelectorAll("code")) {
    code.setAttribute("role", "button");
    code.setAttribute("tabindex", "0");
    code.setAttribute("title", "Copy this command");
  }
}

/** Says how far each instant is from now.
 * @param {Document} root */
function tell(root) {
  for (const far of root.querySelectorAll("time > i")) {
    const at = Date.parse(far.parentElement?.getAttribute("datetime") ?? "");
    const text = distance(at - Date.now());
    if (far.textContent !== text) far.textContent = text;
  }
}

/** @param {number} millis how far away it is; negative: in the past */
function distance(millis) {
  const far = Math.abs(millis) / 1000;
  const text =
    far < 60 ? `${Math.floor(far)} s` : far < 3600 ? `${Math.floor(far / 60)} min` : far < 86400 ? `${Math.floor(far / 3600)} h` : far < 31536000 ? `${Math.floor(far / 86400)} d` : `${Math.floor(far / 31536000)} y`;
  return millis > 0 ? `in ${text}` : `${text} ago`;
}

/** @param {Element} code */
async function copy(code) {
  await navigator.clipboard?.writeText(code.textContent ?? "");
  code.classList.add("done");
  setTimeout(() => code.classList.remove("done"), 1500);
}

document.addEventListener("click", (event) => {
  const code = event.target instanceof Element ? event.target.closest("code") : null;
  if (code) copy(code);
});

// --- Output that goes on ---

/** How what comes next looks, as the sequences so far have it. */
const style = { fore: -1, back: -1, bold: false, dim: false, italic: false, underline: false, inverse: false };

/** How wide the line is that is written on. */
let column = 0;

/** @param {number[]} codes */
function restyle(codes) {
  for (let at = 0; at < Math.max(codes.length, 1); at++) {
    const code = codes[at] || 0;
    if (code === 0) Object.assign(style, { fore: -1, back: -1, bold: false, dim: false, italic: false, underline: false, inverse: false });
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = true;
    else if (code === 7) style.inverse = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.underline = false;
    else if (code === 27) style.inverse = false;
    else if (code >= 30 && code <= 37) style.fore = code - 30;
    else if (code === 39) style.fore = -1;
    else if (code >= 40 && code <= 47) style.back = code - 40;
    else if (code === 49) style.back = -1;
    else if (code >= 90 && code <= 97) style.fore = code - 82;
    else if (code >= 100 && code <= 107) style.back = code - 92;
    else if (code === 38 || code === 48) at += codes[at + 1] === 5 ? 2 : 4;
  }
}

function classes() {
  const [fore, back] = style.inverse ? [style.back < 0 ? 16 : style.back, style.fore < 0 ? 16 : style.fore] : [style.fore, style.back];
  const all = [fore >= 0 && `f${fore}`, back >= 0 && `b${back}`, style.bold && "bo", style.dim && "di", style.italic && "it", style.underline && "ul"];
  return all.filter(Boolean).join(" ");
}

/** Marks of direction, and what cannot be seen. */
const UNSEEN = /[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\u0080-\u009f]/g;
/** A sequence of colours; any other sequence; a control that is not a line's end. */
const PARTS = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;

/** Adds what was written to the output.
 * @param {HTMLElement} out @param {string} text */
function write(out, text) {
  const isAtEnd = out.scrollTop + out.clientHeight >= out.scrollHeight - 8;
  text = text.replace(/\r+\n/g, "\n");
  let from = 0;
  for (const part of text.matchAll(PARTS)) {
    put(out, text.slice(from, part.index));
    if (part[1] !== undefined) restyle(part[1].split(/[;:]/).map(Number));
    from = part.index + part[0].length;
  }
  put(out, text.slice(from));
  trim(out);
  if (isAtEnd) out.scrollTop = out.scrollHeight;
}

/** Puts text of one look; what a carriage return brings back to is taken away.
 * @param {HTMLElement} out @param {string} text */
function put(out, text) {
  text.split("\r").forEach((piece, index) => {
    if (index > 0) clearLine(out);
    if (!piece) return;
    const node = document.createElement("span");
    node.className = classes();
    node.textContent = fit(piece).replace(UNSEEN, "\ufffd");
    if (!node.textContent) return;
    out.append(node.className ? node : document.createTextNode(node.textContent));
  });
}

/** Cuts what is beyond the widest line.
 * @param {string} text */
function fit(text) {
  const lines = text.split("\n").map((line, index) => {
    if (index > 0) column = 0;
    const room = COLUMNS_MOST - column;
    column += line.length;
    if (line.length <= room) return line;
    return room >= 0 ? `${line.slice(0, room)}…` : "";
  });
  return lines.join("\n");
}

/** @param {HTMLElement} out */
function clearLine(out) {
  column = 0;
  for (let last = out.lastChild; last; last = out.lastChild) {
    const text = last.textContent ?? "";
    const end = text.lastIndexOf("\n");
    if (end >= 0) {
      last.textContent = text.slice(0, end + 1);
      return;
    }
    last.remove();
  }
}

/** Keeps the last lines.
 * @param {HTMLElement} out */
function trim(out) {
  let lines = (out.textContent ?? "").split("\n").length;
  while (lines > LINES_MOST && out.firstChild && out.childNodes.length > 1) {
    lines -= (out.firstChild.textContent ?? "").split("\n").length - 1;
    out.firstChild.remove();
  }
}

/** Follows a run until it has ended, while the page is seen: a browser has few connections for one node.
 * @param {HTMLElement} out */
function follow(out) {
  let from = Number(out.dataset.from ?? 0);
  /** @type {EventSource | null} */
  let events = null;
  let isRead = false;
  column = (out.textContent ?? "").split("\n").at(-1)?.length ?? 0;
  const close = () => {
    events?.close();
    events = null;
  };
  const open = () => {
    if (events || isRead || document.hidden || !out.dataset.follow) return;
    const source = new EventSource(`${out.dataset.follow}?follow=1&offset=${from}`);
    events = source;
    const late = setTimeout(instead, OPENS_WITHIN);
    source.addEventListener("open", () => clearTimeout(late));
    source.addEventListener("error", () => source.readyState === EventSource.CLOSED && instead());
    // No event can carry a carriage return: it comes as the sequence that means the same to a terminal.
    source.addEventListener("message", (event) => {
      write(out, event.data.replaceAll("\x1b[G", "\r"));
      from = Number(event.lastEventId.split(".")[1] ?? from);
    });
    for (const kind of ["gap", "partial"]) source.addEventListener(kind, (event) => write(out, `\n… ${event.data} …\n`));
    source.addEventListener("attempt", (event) => write(out, `\n… attempt ${event.data} …\n`));
    source.addEventListener("end", () => {
      close();
      look().catch(() => lost(true));
    });
  };
  /** Where no stream opens, reads now and then. */
  const instead = () => {
    if (isRead || !events || events.readyState === EventSource.OPEN) return;
    close();
    isRead = true;
    read();
  };
  const read = async () => {
    if (!out.dataset.follow) return;
    if (!document.hidden) await readOn().catch(() => {});
    setTimeout(read, (seconds || 2) * 1000);
  };
  const readOn = async () => {
    const answer = await ask(`${out.dataset.follow}?offset=${from}`, { Accept: "text/plain" });
    if (!answer.ok) return;
    const text = await answer.text();
    const begin = Number(answer.headers.get("fencron-offset") ?? from);
    if (begin > from) write(out, `\n… ${begin - from} bytes not shown …\n`);
    write(out, text);
    from = begin + new TextEncoder().encode(text).length;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  open();
}

// --- Keys ---

/** @type {Record<string, string>} */
const PLACES = { n: "Now", j: "Jobs", w: "Week", t: "Trouble", l: "Leadership", k: "Locks", m: "Migrations", s: "Store" };
let goes = 0;

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || !(target instanceof Element)) return;
  if (event.key === "Enter" && target.matches("code")) return copy(target);
  if (target.matches("input, textarea, select")) return;
  if (goes && Date.now() - goes < 1500 && PLACES[event.key]) {
    const link = [...document.querySelectorAll("header nav a")].find((link) => link.textContent?.startsWith(PLACES[event.key]));
    if (link instanceof HTMLElement) link.click();
  }
  goes = event.key === "g" ? Date.now() : 0;
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector("input[type=search]")?.focus();
  }
  if (event.key === "p") pause();
  if (event.key === "Escape") document.getElementById("me")?.removeAttribute("open");
});

function pause() {
  paused = !paused;
  const button = document.getElementById("live");
  button?.setAttribute("aria-pressed", String(paused));
  if (button) button.textContent = paused ? "Updates are paused" : "Pause updates";
}

// --- At the start ---

enhance(document);
const mine = document.getElementById("mine");
if (mine instanceof HTMLInputElement && !mine.value) mine.value = Intl.DateTimeFormat().resolvedOptions().timeZone;
document.getElementById("keys")?.removeAttribute("hidden");
if (seconds > 0) {
  const button = document.getElementById("live");
  button?.removeAttribute("hidden");
  button?.addEventListener("click", pause);
  setTimeout(lookOn, seconds * 1000);
  setInterval(() => paused || tell(document), 1000);
}
const out = document.getElementById("output");
if (out instanceof HTMLElement) {
  out.scrollTop = out.scrollHeight;
  if (out.dataset.follow) follow(out);
}

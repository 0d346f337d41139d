// What the pages do beside links and forms. Without it they can be read, searched and judged.
"use strict";

const MOST_PARTS = 60, MOST_REJECTS = 24, HEAT_MAP_TRIES = 12, PICTURE_TRIES = 20, PICTURE_PAUSE_MS = 250;
const LOST_MS = 2_000;
const SENT_MS = 10_000;  // who has stopped the page may press again then

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function show(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

// The line

function picture(live, part) {
  // The pictures reach the archive a moment after the verdict. A part that was not judged has no heat map, and the
  // archive may keep no picture at all.
  const image = make("img"), judged = part.decision === "fail" || part.decision === "review";
  let tries = judged ? 0 : HEAT_MAP_TRIES;
  image.alt = `${live.dataset.pictureOf} ${part.part}`;
  const load = () => {
    image.src = `${live.dataset.picture}${part.job}/${tries < HEAT_MAP_TRIES ? "heat_map" : "image"}?try=${tries}`;
  };
  image.addEventListener("error", () => {
    tries += 1;
    if (tries < PICTURE_TRIES) setTimeout(load, PICTURE_PAUSE_MS); else image.remove();
  });
  load();
  return image;
}

function link(live, part) {
  const element = make("a");
  element.href = `${live.dataset.part}${encodeURIComponent(part.part)}?job=${encodeURIComponent(part.job)}`;
  return element;
}

function first(list, element, most) {
  const item = make("li");
  item.append(element);
  list.prepend(item);
  while (list.children.length > most) list.lastElementChild.remove();
}

function add(live, part) {
  if (live.dataset.line && live.dataset.line !== part.line) return;
  const dot = link(live, part);
  dot.append(make("span", "", `result ${part.decision}`));
  dot.setAttribute("aria-label", `${part.part}: ${part.word}, ${part.score}`);
  dot.title = `${part.part}: ${part.word}, ${part.score}`;
  first(document.getElementById("parts"), dot, MOST_PARTS);
  if (part.decision === "pass") return;
  const card = link(live, part);
  card.append(picture(live, part), make("strong", part.part), make("br"), make("span", part.word, `result ${part.decision}`),
    make("span", ` ${part.score}`), make("br"), make("small", `${part.line}, ${part.category}, ${part.at}`));
  first(document.getElementById("rejects"), card, MOST_REJECTS);
}

function state(live, now) {
  const rates = Object.entries(now.rates).filter(([line]) => !live.dataset.line || line === live.dataset.line);
  document.getElementById("rates").replaceChildren(
    ...rates.map(([line, count]) => make("li", `${line}: ${count} ${live.dataset.aMinute}`)));
  const shown = now.processes.filter((one) => !live.dataset.line || !one.line || one.line === live.dataset.line);
  const items = shown.map((one) => {
    const where = [one.line, one.name, one.host].filter(Boolean).join(", ");
    const item = make("li", `${one.role} (${where}): `);
    const good = one.state === "serving" ? "pass" : ["standby", "starting"].includes(one.state) ? "" : "fail";
    item.append(make("span", one.word, `result ${good}`), one.heard_s > 3 ? ` ${one.heard_s} s` : "");
    return item;
  });
  document.getElementById("processes").replaceChildren(...(items.length ? items : [make("li", live.dataset.nothing)]));
  show(document.getElementById("live-problem"), now.archive ? "" : live.dataset.archive);
}

function listen(live) {
  const source = new EventSource(live.dataset.events), problem = document.getElementById("live-problem");
  source.addEventListener("parts", (event) => JSON.parse(event.data).forEach((part) => add(live, part)));
  source.addEventListener("state", (event) => state(live, JSON.parse(event.data)));
  source.addEventListener("end", () => { source.close(); show(problem, live.dataset.ended); });
  let lost;  // a stream ends after a while, and the next one begins at once
  source.addEventListener("open", () => clearTimeout(lost));
  source.addEventListener("error", () => {
    clearTimeout(lost);
    if (source.readyState === EventSource.CLOSED) show(problem, live.dataset.ended);
    else lost = setTimeout(() => show(problem, live.dataset.lost), LOST_MS);
  });
}

// Judgements, by keyboard

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=range]), select, textarea");
  if (typing || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const target = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (target) { event.preventDefault(); target.click(); }
});

// The heat map over the picture: its strength stays from part to part

const OVER = "patchline-heat-map";

function cover(slider) {
  const figure = slider.closest("figure"), text = `${slider.value} %`;
  figure.querySelector(".over").style.opacity = slider.value / 100;
  figure.querySelector("[data-over-text]").textContent = text;
  slider.setAttribute("aria-valuetext", text);
}

function coverAsBefore() {
  for (const slider of document.querySelectorAll("[data-over]")) {
    slider.value = sessionStorage.getItem(OVER) ?? slider.value;
    cover(slider);
  }
}

document.addEventListener("input", (event) => {
  if (!event.target.matches("[data-over]")) return;
  cover(event.target);
  sessionStorage.setItem(OVER, event.target.value);
});

document.addEventListener("htmx:afterSettle", coverAsBefore);
coverAsBefore();

// One judgement at a time: a second key must not judge a part that nobody has seen.
document.addEventListener("htmx:beforeRequest", (event) => {
  const review = event.target.closest("#review");
  if (review) review.querySelectorAll("button").forEach((button) => { button.disabled = true; });
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (event.target.closest) event.target.closest("#review")?.querySelectorAll("button").forEach((one) => { one.disabled = false; });
});

// A form that is on its way is not sent again by a second press. Its answer is another page.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (Date.now() - (form.dataset.sent || 0) < SENT_MS) event.preventDefault(); else form.dataset.sent = Date.now();
});

window.addEventListener("pageshow", () => {
  document.querySelectorAll("form[data-sent]").forEach((form) => { delete form.dataset.sent; });
});

document.addEventListener("htmx:afterSwap", (event) => {
  show(document.getElementById("trouble"), "");
  if (event.target.id === "review") document.getElementById("review").focus();
  const look = document.getElementById("look");
  if (look && document.activeElement === document.body) look.focus();  // the button that was pressed is gone
});

for (const failure of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(failure, (event) => {
    const answer = event.detail.xhr ? new DOMParser().parseFromString(event.detail.xhr.responseText || "", "text/html") : null;
    const said = answer?.querySelector(".problem")?.textContent;
    show(document.getElementById("trouble"), said || document.body.dataset.trouble);
  });
}

const live = document.getElementById("live");
if (live) listen(live);

// Thresholds that move: by pointer on the histogram, by the sliders, or by keyboard on them. All figures come from the
// server; this script only shows those of the edge at which a threshold is.
"use strict";

(() => {
  const LIMITS = ["review", "fail"];
  let moved = LIMITS;  // those that the page shows: a trial has no second one
  let spread = null, at = {};

  function nearest(values, value) {
    let best = 0;
    values.forEach((one, index) => { if (Math.abs(one - value) < Math.abs(values[best] - value)) best = index; });
    return best;
  }

  function fill(row, counts) {
    const cells = document.querySelectorAll(`#figures [data-row="${row}"] td`);
    counts.forEach((count, index) => { cells[index].textContent = count; });
  }

  function show() {
    for (const limit of LIMITS) {
      const value = String(spread.edges[at[limit]]), slider = document.querySelector(`[data-slider="${limit}"]`);
      if (slider) {
        const drawn = document.querySelector(`[data-limit="${limit}"]`);
        drawn.setAttribute("transform", `translate(${spread.x[at[limit]]} 0)`);
        slider.value = at[limit];
        slider.setAttribute("aria-valuetext", value);
      }
      document.querySelectorAll(`[data-shown="${limit}"]`).forEach((one) => { one.textContent = value; });
      document.querySelectorAll(`[data-value="${limit}"], #${limit}`).forEach((one) => { one.value = value; });
    }
    for (const [row, counts] of Object.entries(spread.counts)) fill(row, counts[at.review]);
    fill("failed", spread.failed[at.fail]);
    document.getElementById("over-kill").textContent = spread.over_kill[at.review];
    document.getElementById("miss").textContent = spread.miss[at.review];
  }

  // A part that fails is doubtful, too: one threshold takes the other along.
  function move(limit, index) {
    at[limit] = Math.max(1, Math.min(spread.edges.length - 1, index));
    if (limit === "review") at.fail = Math.max(at.fail, at.review); else at.review = Math.min(at.fail, at.review);
    show();
  }

  function drag(histogram) {
    let held = "";
    const place = (event) => {
      const box = histogram.getBoundingClientRect(), view = histogram.viewBox.baseVal;
      return view.x + (event.clientX - box.left) / box.width * view.width;
    };
    histogram.addEventListener("pointerdown", (event) => {
      const x = place(event), [review, fail] = LIMITS.map((limit) => Math.abs(spread.x[at[limit]] - x));
      const named = event.target.closest("[data-limit]"), is_left = review === fail && x < spread.x[at.review];
      held = named ? named.dataset.limit : review < fail || is_left || moved.length === 1 ? "review" : "fail";
      histogram.setPointerCapture(event.pointerId);
      move(held, nearest(spread.x, x));
    });
    histogram.addEventListener("pointermove", (event) => { if (held) move(held, nearest(spread.x, place(event))); });
    for (const end of ["pointerup", "pointercancel"]) histogram.addEventListener(end, () => { held = ""; });
  }

  function start() {
    const section = document.getElementById("spread");
    if (!section) return;
    spread = JSON.parse(section.dataset.spread);
    moved = LIMITS.filter((limit) => document.querySelector(`[data-slider="${limit}"]`));
    for (const limit of LIMITS) at[limit] = nearest(spread.edges, Number(section.dataset[limit]));
    for (const limit of moved) {
      const slider = document.querySelector(`[data-slider="${limit}"]`);
      slider.max = spread.edges.length - 1;
      slider.value = at[limit];
      slider.setAttribute("aria-valuetext", section.dataset[limit]);
      document.querySelector(`#sliders [data-shown="${limit}"]`).textContent = section.dataset[limit];
      slider.addEventListener("input", () => move(limit, Number(slider.value)));
    }
    document.getElementById("sliders").hidden = false;
    drag(document.getElementById("histogram"));
  }

  document.addEventListener("htmx:afterSwap", (event) => { if (event.target.id === "effect") start(); });
  start();
})();

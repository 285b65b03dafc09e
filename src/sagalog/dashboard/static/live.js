// Keeps an open page up to date: swaps in the parts that the server says have changed, and lets the times run on.
// Without it the pages are the same, as they were when they were loaded.
"use strict";

(() => {
  const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const state = document.getElementById("live-state");
  const notice = document.getElementById("stream");
  const waiting = new Map();
  let paused = false;
  let told = null;

  function span(seconds) {
    if (seconds < 10) return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
    let whole = Math.round(seconds);
    const parts = [];
    for (const [unit, length] of UNITS) {
      const number = Math.floor(whole / length);
      whole %= length;
      if (number || parts.length) parts.push([number, unit]);
      if (parts.length === 2) break;
    }
    return parts.filter(([number]) => number).map(([number, unit]) => `${number.toLocaleString("en")} ${unit}`).join(" ");
  }

  function tick() {
    const now = Date.now();
    for (const time of document.querySelectorAll("time[data-age], time[data-due]")) {
      const passed = (now - Date.parse(time.dateTime)) / 1000;
      let text = span(Math.abs(passed));
      if ("due" in time.dataset) text = passed > 0 ? `overdue by ${text}` : `in ${text}`;
      else if (Math.abs(passed) < 10) text = `${Math.floor(Math.abs(passed))} s`;
      if (time.textContent !== text) time.textContent = text;
    }
    if (!paused) for (const [name, part] of waiting) swap(name, part);
  }

  // What somebody is at (a selected text, an opened detail, the focus) stays as it is.
  function swap(name, [mark, html]) {
    const place = document.querySelector(`[data-live="${name}"]`);
    waiting.delete(name);
    if (!place || place.dataset.mark === mark) return;
    const selection = document.getSelection();
    if (paused || (selection && !selection.isCollapsed && place.contains(selection.anchorNode))) {
      waiting.set(name, [mark, html]);
      return;
    }
    const open = [...place.querySelectorAll("details[open][id]")].map((one) => one.id);
    const focused = place.contains(document.activeElement) ? address(place, document.activeElement) : null;
    const scrolled = [...place.querySelectorAll(".wide, pre")].map((one) => [one.scrollLeft, one.scrollTop]);
    place.innerHTML = html;
    place.dataset.mark = mark;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) focused()?.focus({ preventScroll: true });
    [...place.querySelectorAll(".wide, pre")].forEach((one, index) => {
      if (scrolled[index]) [one.scrollLeft, one.scrollTop] = scrolled[index];
    });
    place.classList.remove("changed");
    void place.offsetWidth;
    place.classList.add("changed");
    tick();
    tell();
  }

  // What a screen reader is told: one sentence, when it has changed. The times that run on are nothing to be told.
  function tell() {
    const sentence = [...document.querySelectorAll("[data-say]")].map((one) => one.dataset.say).join(". ");
    if (sentence !== told && told !== null) document.getElementById("said").textContent = sentence;
    told = sentence;
  }

  function address(place, element) {
    const detail = element.tagName === "SUMMARY" ? element.parentElement.id : "";
    if (detail) return () => document.getElementById(detail)?.querySelector("summary");
    const href = element.getAttribute("href");
    if (href) return () => [...place.querySelectorAll("a")].find((one) => one.getAttribute("href") === href);
    const index = [...place.querySelectorAll("[tabindex]")].indexOf(element);
    return () => place.querySelectorAll("[tabindex]")[index];
  }

  function say(text, bad) {
    notice.textContent = "";
    if (!text) return;
    const line = document.createElement("p");
    line.className = bad ? "banner bad" : "banner";
    line.textContent = text;
    notice.append(line);
  }

  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Pause";
  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Pause";
    tick();
  });

  function listen() {
    const source = new EventSource(document.body.dataset.stream);
    let lost = null;
    source.addEventListener("open", () => {
      clearTimeout(lost);
      lost = null;
      state.textContent = "This page is live.";
      state.append(button);
      say("");
    });
    source.addEventListener("changed", (event) => {
      say("");
      for (const [name, part] of Object.entries(JSON.parse(event.data))) swap(name, part);
    });
    source.addEventListener("down", (event) => {
      say(`The journal does not answer; this page recovers by itself when it is back. ${JSON.parse(event.data)}`, true);
    });
    source.addEventListener("error", () => {
      if (lost === null) lost = setTimeout(() => say("The dashboard does not answer; trying again.", true), 3000);
      // A browser gives up for good on an answer that is not a stream (signed out, too many pages): ask again later.
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(lost);
        say("This page is not live any more; load it again.", true);
        setTimeout(listen, 10000);
      }
    });
    addEventListener("pagehide", () => source.close());
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  }

  setInterval(tick, 1000);
  tell();
  tick();
  listen();
})();

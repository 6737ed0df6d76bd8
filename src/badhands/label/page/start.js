// Before anything else: whatever keeps the page from starting stands in the red banner, not in the console alone.
"use strict";

(() => {
  const show = (text) => {
    document.querySelector("#dead").hidden = false;
    document.querySelector("#dead-text").textContent = `The page could not start: ${text}`;
  };
  const tell = (text) => {
    if (window.badhands) return; // it runs: the page speaks for itself
    if (document.readyState === "loading") addEventListener("DOMContentLoaded", () => show(text));
    else show(text);
  };
  window.cannotStart = tell;
  addEventListener("error", (event) => {
    if (event instanceof ErrorEvent) tell(event.message);
    else if (event.target.matches?.("script, link")) {
      tell(`${event.target.src || event.target.href} could not be loaded. Reload the page; is the server still there?`);
    }
  }, true);
  addEventListener("unhandledrejection", (event) => tell(event.reason?.message ?? String(event.reason)));
})();

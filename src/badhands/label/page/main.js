// The page starts: who labels, then the study, then the app.

import { App, setTheme } from "./app.js";
import { keep, recall } from "./store.js";
import { Study } from "./study.js";

const $ = (selector) => document.querySelector(selector);

async function annotatorName() {
  const address = new URL(location.href), pattern = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$/;
  const given = address.searchParams.get("annotator");
  if (given && pattern.test(given) && given !== "judge") return given;
  const dialog = $("#who"), input = dialog.querySelector("input");
  input.value = recall("badhands:annotator") ?? "";
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  keep("badhands:annotator", input.value);
  address.searchParams.set("annotator", input.value);
  history.replaceState(null, "", address);
  return input.value;
}

async function main() {
  setTheme(recall("badhands:theme") ?? "auto");
  const annotator = await annotatorName();
  let response;
  while (!response) {
    response = await fetch(`api/study?${new URLSearchParams({ annotator })}`).catch(() => null);
    $("#dead").hidden = Boolean(response);
    $("#dead-text").textContent = "The labelling server does not answer; trying again.";
    if (!response) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  const data = await response.json();
  if (!response.ok) throw new Error(data.error);
  const app = new App(new Study(data));
  document.title = `${data.study.name}: badhands labels`;
  app.start();
  window.badhands = app; // for the console and the tests; from here on the page speaks for itself
}

main().catch((error) => {
  window.cannotStart(error.message);
  throw error;
});

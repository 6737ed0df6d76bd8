// Buttons, sliders, note and save state: what stands round the picture. It shows the app's state and calls its verbs.

import { SIZES } from "./painter.js";
import { FILTERS, progress } from "./plan.js";

const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];

export class Panel {
  #noteTimer = null;
  #noteItem = null;
  #toastTimer = null;

  constructor(app) {
    this.app = app;
    const on = (selector, run) => $$(selector).forEach((button) => button.addEventListener("click", (event) => {
      run(button.value, button);
      // After a click by mouse the keys belong to the picture again: Enter goes on, it does not click once more.
      if (event.detail && !document.querySelector("dialog[open]")) app.view.mask.canvas.focus({ preventScroll: true });
    }));
    on("#modes button", (mode) => app.setMode(mode));
    on("#verdicts button", (verdict) => app.triage(verdict));
    on("#classes button", (value) => app.choose(Number(value)));
    on("#tools button", (tool) => app.useTool(tool));
    on("#kinds button", (kind) => app.hand.mark(Number(kind)));
    on("#flip", () => app.hand.flip());
    on("#rest", () => app.hand.restIsNotHand());
    on("#clear", () => app.hand.clear());
    on("#undo", () => app.undo());
    on("#redo", () => app.redo());
    on("#tools-button", (_, button) => {
      const open = document.body.dataset.tools !== "open";
      document.body.dataset.tools = open ? "open" : "";
      button.setAttribute("aria-expanded", String(open));
    });
    on("#take-back", () => app.undo());
    for (const [event, held] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["pointercancel", false]]) {
      $("#peek").addEventListener(event, () => app.peek(held));
    }
    on("#previous", () => app.go(-1));
    on("#next", () => app.go(1));
    on("#zoom-in", () => app.view.zoomBy(1.25));
    on("#zoom-out", () => app.view.zoomBy(0.8));
    on("#zoom-fit", () => app.view.fit());
    on("#list-button", () => app.toggleList());
    on("#jump-button", () => app.openJump());
    on("#theme-button", () => app.cycleTheme());
    on("#help-button", () => app.openHelp());
    on("#finished button", (value) => (value === "paint" ? app.setMode("paint") : app.setFilter(value)));
    $("#size").max = SIZES.length - 1;
    $("#size").addEventListener("input", (event) => app.resizeBrush(Number(event.target.value) - SIZES.indexOf(app.painter.size)));
    $("#opacity").addEventListener("input", (event) => app.setOpacity(Number(event.target.value) / 100));
    on("#accept-go", () => app.proposals.acceptAndGo());
    $("#threshold").addEventListener("input", (event) => app.proposals.setThreshold(Number(event.target.value)));
    $("#grid").addEventListener("change", () => app.toggleGrid());
    $("#verdict").addEventListener("change", (event) => app.setVerdict(event.target.value || null));
    $("#note").addEventListener("input", () => this.#noteSoon());
    $("#note").addEventListener("change", () => this.#saveNote());
    $("#study-name").textContent = app.study.name;
    $("#annotator").textContent = app.study.annotator;
  }

  render() {
    const { app } = this, { item, mode, painter, view, study } = app;
    document.body.dataset.mode = mode;
    document.body.dataset.empty = String(!item);
    for (const button of $$("#modes button")) button.setAttribute("aria-pressed", String(button.value === mode));
    for (const button of $$("#classes button")) button.setAttribute("aria-pressed", String(Number(button.value) === painter.value));
    for (const button of $$("#tools button")) button.setAttribute("aria-pressed", String(button.value === painter.tool));
    $("#size").value = SIZES.indexOf(painter.size);
    $("#size").setAttribute("aria-valuetext", `${painter.size} tokens`);
    $("#size-text").textContent = painter.size;
    $("#opacity").value = Math.round(view.opacity * 100);
    $("#opacity-text").textContent = `${Math.round(view.opacity * 100)} %`;
    $("#grid").checked = view.showGrid;
    if (!item) return this.#nothingLeft();
    const state = app.state, image = study.images.get(item.id);
    $("#prompt").textContent = image.prompt;
    $("#item-id").textContent = item.id;
    for (const button of $$("#verdicts button")) button.setAttribute("aria-pressed", String(button.value === state.verdict));
    $("#verdict").value = state.verdict ?? "";
    if (document.activeElement !== $("#note") || this.#noteItem !== item) $("#note").value = state.note;
    this.#noteItem = item;
    const can = app.history.can(item);
    $("#undo").disabled = mode === "triage" ? !app.decided.length && !can.undo : !can.undo;
    $("#redo").disabled = !can.redo;
    const proposals = app.proposals.here;
    $("#proposals").hidden = !proposals.length;
    $("#proposals .list").replaceChildren(...proposals.map((proposal, position) => {
      const button = document.createElement("button");
      button.append(`Accept ${proposal.chance ? `learned from ${proposal.images}` : proposal.source}`);
      if (!position) button.append(Object.assign(document.createElement("kbd"), { textContent: "P" }));
      button.addEventListener("click", () => app.proposals.accept(position));
      return button;
    }));
    $("#accept-go").hidden = !proposals.length;
    $("#threshold-row").hidden = !proposals.some((proposal) => proposal.chance);
    $("#threshold").value = app.proposals.threshold;
    $("#threshold-text").textContent = `${app.proposals.threshold} %`;
    $("#accepted").hidden = !state.accepted;
  }

  #nothingLeft() {
    const { app } = this, now = progress(app.study, app.mode);
    $("#prompt").textContent = $("#item-id").textContent = "";
    const triage = app.mode === "triage", { good, bad } = now.verdicts;
    $("#finished h2").textContent = !now.total && !triage ? "Nothing to paint yet"
      : app.filter === "todo" ? (triage ? "Triage is done" : "Painting is done") : `No image under “${FILTERS[app.filter].label}”`;
    $("#finished p").textContent = !now.total && !triage
      ? "The painting set is all bad images and as many good ones: triage comes first."
      : triage ? `${good} good and ${bad} bad images. The balanced set for painting is all bad ones and as many good ones.`
        : `${now.done} images are painted${now.aside ? `, ${now.aside} need no mask` : ""}${now.untriaged ? `; ${now.untriaged} are not triaged yet` : ""}. Every change is on the server's disk once the line above says so.`;
    $("#finished [value=paint]").hidden = !triage;
  }

  /** What the last key did, and the way back. */
  confirm(item, words) {
    $("#confirmed").hidden = !item;
    if (item) $("#confirmed-text").textContent = `${item.id}: ${words}.`;
  }

  status() {
    const { outbox } = this.app, chip = $("#saved");
    const waiting = outbox.waiting, count = waiting === 1 ? "1 change" : `${waiting} changes`;
    const dead = outbox.server === "dead" || outbox.server === "other";
    chip.dataset.state = dead || outbox.blocked.length ? "bad" : waiting ? "busy" : "good";
    chip.textContent = outbox.blocked.length ? (outbox.blocked.every((entry) => entry.refused === "conflict") ? "Changed in two places" : `${outbox.blocked.length} refused`) : dead ? `${waiting} unsent`
      : waiting ? "Saving…" : outbox.lastSaved ? `Saved ${outbox.lastSaved.toLocaleTimeString()}` : "Nothing to save";
    const where = outbox.stored ? "kept in this browser, to be sent when it can take them. You can go on."
      : "in this page alone, because the browser's storage is full: leave it open until they are saved.";
    const text = outbox.server === "other" ? sentence(outbox.reason) : dead ? "The labelling server does not answer." : "";
    const rest = waiting ? `${count} ${where}` : "You can go on: changes are kept in this browser until it returns.";
    this.#banner(dead || (!outbox.stored && waiting > 0), `${text} ${rest}`.trim());
  }

  #banner(shown, text) {
    $("#dead").hidden = !shown;
    if (shown && $("#dead-text").textContent !== text) $("#dead-text").textContent = text;
  }

  /** A short message, read out by screen readers. */
  say(text, isError = false) {
    const toast = $("#toast");
    toast.textContent = text;
    toast.dataset.error = String(isError);
    toast.classList.add("shown");
    clearTimeout(this.#toastTimer);
    this.#toastTimer = setTimeout(() => toast.classList.remove("shown"), isError ? 8000 : 3000);
  }

  focusNote() {
    $("#note").closest("details").open = true;
    $("#note").focus();
  }

  #noteSoon() {
    clearTimeout(this.#noteTimer);
    this.#noteTimer = setTimeout(() => this.#saveNote(), 600);
  }

  #saveNote() {
    clearTimeout(this.#noteTimer);
    if (this.app.item && this.#noteItem === this.app.item) this.app.setNote($("#note").value);
  }
}

/** As a server's message: with a capital letter and a full stop. */
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/\.?$/, ".");

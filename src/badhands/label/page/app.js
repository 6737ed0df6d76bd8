// The app: turns keys, buttons and strokes into states of the item on screen.

import { Clock } from "./clock.js";
import { conflictDialog, jumpDialog } from "./dialogs.js";
import { History } from "./history.js";
import { helpInto, listen } from "./keys.js";
import { HandKeys } from "./hand_keys.js";
import { BAD, GOOD, hands } from "./mask.js";
import { Outbox } from "./outbox.js";
import { SIZES, Painter } from "./painter.js";
import { Panel } from "./panel.js";
import { FILTERS, isDone, neighbour, queue } from "./plan.js";
import { Proposals } from "./proposals.js";
import { Sidebar } from "./sidebar.js";
import { keep, recallJson } from "./store.js";
import { isPainted, keyOf, same, verdictOf } from "./study.js";
import { Trail } from "./trail.js";
import { View } from "./view.js";

const $ = (selector) => document.querySelector(selector);
const OPACITIES = [0.45, 0.8, 0, 0.2];
const SAID = { good: "all hands good", bad: "some hand bad", no_hand: "no hand", skip: "skipped" };

export class App {
  constructor(study) {
    this.study = study;
    this.history = new History();
    this.clock = new Clock();
    this.mode = "triage";
    this.filter = "todo";
    this.item = null;
    this.trails = { triage: new Trail(), paint: new Trail() };
    this.decided = []; // items in the order of triage, so that undo can go back to them
    this.proposals = new Proposals(this);
    this.pictures = new Map();
    const app = this;
    this.view = new View($("#view"));
    this.painter = new Painter(this.view, {
      get enabled() { return app.mode === "paint" && app.item !== null; },
      get ready() { return app.ready; },
      get state() { return app.item ? study.state(app.item) : { classes: new Uint8Array(1), kinds: new Uint8Array(1) }; },
      commit: (classes, kinds) => app.change({ classes, kinds, verdict: verdictOf(classes, app.state.verdict) }),
    });
    this.hand = new HandKeys(this);
    this.sidebar = new Sidebar(this, $("#sidebar"));
    this.panel = new Panel(this);
    this.outbox = new Outbox(study);
    for (const [item, payload] of this.outbox.unsent()) this.#takeUnsent(item, payload);
    this.outbox.addEventListener("status", () => this.panel.status());
    this.outbox.addEventListener("saved", ({ detail }) => this.#saved(detail));
    this.outbox.addEventListener("adopted", ({ detail }) => this.#takeUnsent(detail.item, detail.payload));
    this.outbox.addEventListener("conflict", ({ detail }) => conflictDialog(this, detail));
    this.outbox.addEventListener("refused", ({ detail }) => this.panel.say(`The server refused ${detail.item.id}: ${detail.error}`, true));
    this.channel = new BroadcastChannel(`badhands:${study.id}:${study.annotator}`);
    this.channel.onmessage = ({ data }) => this.#otherTab(data);
    if (matchMedia("(max-width: 900px), (max-height: 520px)").matches) this.toggleList();
    listen(this);
    helpInto($("#help .groups"), this);
    addEventListener("hashchange", () => this.#fromAddress());
  }

  get state() {
    return this.study.state(this.item);
  }

  /** Whether the picture is on screen. Nothing is said of an image before: a held key would label images unseen. */
  get ready() {
    if (this.item && this.view.drawn) return true;
    if (this.item) this.panel.say(this.failed ? "Its picture is missing: go on to the next image." : "Wait for the picture.", this.failed);
    return false;
  }

  // Where we are --------------------------------------------------------------------------------------------------

  /** The address names mode and image, so reload and the back button work; else where this annotator left off. */
  start() {
    if (this.#fromAddress()) return;
    const kept = recallJson(this.#placeKey());
    const place = kept ?? (this.study.last && { mode: "triage", item: this.study.last });
    if (place && this.study.images.has(place.item?.id)) {
      this.mode = place.mode;
      this.filter = place.filter in FILTERS ? place.filter : "todo";
      const known = place.item.repeat ? this.study.again.has(place.item.id) : true;
      if (known && (place.mode === "paint" || !isDone(this.study, place.item, "triage"))) return this.open(place.item);
    }
    this.setMode(this.mode);
  }

  #placeKey() {
    return `badhands:place:${this.study.id}:${this.study.annotator}`;
  }

  #fromAddress() {
    const [, mode, id, repeat] = /^#(triage|paint)\/([A-Za-z0-9._-]+)(\/1)?$/.exec(location.hash) ?? [];
    if (!id || !this.study.images.has(id)) return false;
    const item = { id, repeat: repeat ? 1 : 0 };
    if (this.mode === mode && same(this.item, item)) return true;
    this.mode = mode;
    this.open(item);
    return true;
  }

  /** Shows an item; null shows that nothing is left. */
  async open(item, { focus = false, back = false } = {}) {
    this.#leave();
    this.item = item;
    this.failed = false;
    if (item && !back) this.trails[this.mode].add(item);
    this.painter.reset();
    if (focus) this.view.mask.canvas.focus();
    if (item) {
      const image = this.study.images.get(item.id);
      const address = `#${this.mode}/${item.id}${item.repeat ? "/1" : ""}`;
      if (location.hash !== address) history.replaceState(null, "", address);
      keep(this.#placeKey(), JSON.stringify({ mode: this.mode, filter: this.filter, item }));
      this.view.painting = this.mode === "paint";
      this.#chooseByVerdict();
      this.view.show(null, image);
      this.#showState();
      const picture = await this.#picture(item.id).catch(() => null);
      if (this.item !== item) return;
      this.failed = !picture;
      if (!picture) this.panel.say(`The picture of ${item.id} could not be loaded.`, true);
      this.view.image = picture;
      this.view.redraw("picture");
      this.#fetchAhead();
      if (this.mode === "paint") await this.proposals.load(item);
    } else {
      this.view.show(null, { h: 1, w: 1, width: 1, height: 1 });
      this.view.proposed = null;
      this.view.setMask(null, []);
      this.panel.render();
      this.sidebar.render();
    }
  }

  setMode(mode) {
    this.mode = mode;
    if (this.filter !== "queue") this.filter = "todo";
    const stays = this.item && queue(this.study, mode).some((item) => same(item, this.item)) && !isDone(this.study, this.item, mode);
    this.open(stays ? this.item : neighbour(this.study, mode, this.filter, null));
  }

  setFilter(filter) {
    this.filter = filter;
    const keep = this.item && FILTERS[filter].keep(this.study, this.item, this.mode);
    if (keep) this.sidebar.render();
    else this.open(neighbour(this.study, this.mode, filter, this.item));
  }

  /** Back is where one was, as in a browser: what is painted has left the list. Forward is the way back, then the list. */
  go(direction) {
    const seen = this.trails[this.mode].step(direction);
    if (seen) return this.open(seen, { back: true });
    const next = neighbour(this.study, this.mode, this.filter, this.item, direction);
    if (next) this.open(next);
    else if (this.item && isDone(this.study, this.item, this.mode) && this.filter === "todo") this.open(null);
    else this.panel.say("This is the only image of the list.");
  }

  #leave() {
    const seconds = this.clock.take();
    if (!this.item) return;
    // Time spent on looking belongs to the image too, but looking alone makes no record.
    const state = this.study.known(this.item);
    if (state) this.study.set(this.item, { ...state, seconds: state.seconds + seconds });
  }

  #picture(id) {
    if (!this.pictures.has(id)) {
      const picture = new Image();
      picture.src = `api/images/${encodeURIComponent(id)}`;
      this.pictures.set(id, picture.decode().then(() => picture, (error) => {
        this.pictures.delete(id);
        throw error;
      }));
      if (this.pictures.size > 40) this.pictures.delete(this.pictures.keys().next().value);
    }
    return this.pictures.get(id);
  }

  #fetchAhead() {
    let at = this.item;
    for (let i = 0; i < 4 && at; i++) {
      at = neighbour(this.study, this.mode, this.filter, at);
      if (at) this.#picture(at.id).catch(() => {});
    }
  }

  // Changes -------------------------------------------------------------------------------------------------------

  /** Every change comes through here: history, memory, outbox, screen. */
  change(fields) {
    const before = this.state, after = { ...before, ...fields };
    if (sameContent(before, after)) return this.#showState();
    this.history.push(this.item, before);
    this.#put(this.item, after);
    if (fields.classes && before.verdict && after.verdict !== before.verdict) this.panel.say(`The verdict is now: ${SAID[after.verdict]}.`);
  }

  #put(item, state) {
    const seconds = same(item, this.item) ? this.clock.take() : 0;
    const kept = { ...state, seconds: (this.study.known(item)?.seconds ?? 0) + seconds };
    this.study.set(item, kept);
    this.outbox.put(item, this.study.payload(item, kept));
    if (same(item, this.item)) this.#showState();
    else this.sidebar.render();
  }

  #showState() {
    const { classes, kinds } = this.state;
    this.view.setMask(classes, hands(this.view.size, classes, kinds));
    this.proposals.show();
    this.sidebar.render();
    this.sidebar.scrollToCurrent();
  }

  /** A blank image is painted as its verdict says, unless another class is chosen. */
  #chooseByVerdict() {
    if (this.mode === "paint" && !isPainted(this.state)) this.painter.value = this.state.verdict === "good" ? GOOD : BAD;
  }

  triage(verdict) {
    if (!this.item || !this.ready) return;
    this.decided.push(this.item);
    this.change({ verdict });
    this.panel.confirm(this.item, SAID[verdict]);
    const next = neighbour(this.study, this.mode, this.filter, this.item);
    if (next) this.open(next);
    else if (this.filter === "todo") this.open(null);
  }

  setVerdict(verdict) {
    if (this.item) this.change({ verdict });
  }

  undo() {
    if (this.painter.busy || this.painter.anchor) return this.painter.cancel();
    if (this.mode === "triage" && this.decided.length) {
      const item = this.decided.pop(), before = this.history.undo(item, this.study.state(item));
      if (before) this.#put(item, before);
      this.panel.confirm(null);
      return this.open(item);
    }
    this.#step("undo");
  }

  redo() {
    this.#step("redo");
  }

  #step(direction) {
    const state = this.item && this.history[direction](this.item, this.state);
    if (state) this.#put(this.item, state);
    else this.panel.say(direction === "undo" ? "Nothing to undo on this image." : "Nothing to redo.");
  }

  choose(value) {
    this.painter.value = value;
    this.proposals.show();
  }

  useTool(tool) {
    this.painter.cancel();
    this.painter.tool = tool;
    this.painter.showTools();
    this.panel.render();
  }

  resizeBrush(direction) {
    const at = SIZES.indexOf(this.painter.size) + direction;
    this.painter.size = SIZES[Math.min(SIZES.length - 1, Math.max(0, at))];
    this.painter.tool = "brush";
    this.painter.showTools();
    this.panel.render();
  }

  setNote(note) {
    if (this.item) this.change({ note });
  }

  // Other tabs, other days ------------------------------------------------------------------------------------------

  #saved({ item, answer }) {
    this.study.disagreements.delete(item.id);
    if (answer.disagrees.length) this.study.disagreements.set(item.id, answer.disagrees);
    this.channel.postMessage({ item, revision: answer.revision });
    if (answer.masks !== this.study.masks) {
      this.study.masks = answer.masks;
      this.proposals.forget();
      if (this.item && this.mode === "paint") this.proposals.load(this.item);
    }
    this.sidebar.render();
  }

  /** Another tab saved this item. Without a change of our own waiting, show theirs; else the server will ask. */
  async #otherTab({ item, revision }) {
    if (this.outbox.has(item) || (this.study.revisions.get(keyOf(item)) ?? 0) >= revision || this.painter.busy) return;
    const query = new URLSearchParams({ annotator: this.study.annotator, repeat: item.repeat });
    const response = await fetch(`api/labels/${encodeURIComponent(item.id)}?${query}`).catch(() => null);
    if (!response?.ok || this.outbox.has(item)) return;
    const { label } = await response.json();
    if (label) this.takeTheirs(item, label);
    if (same(this.item, item)) this.panel.say("Changed in another tab; you see the new state. Undo brings yours back.");
  }

  takeTheirs(item, label) {
    this.history.push(item, this.study.state(item));
    this.study.adopt(label);
    if (same(this.item, item)) this.#showState();
    else this.sidebar.render();
  }

  #takeUnsent(item, payload) {
    if (!this.study.images.has(item.id)) return;
    this.study.set(item, this.study.stateOf(payload));
    if (same(this.item, item)) this.#showState();
  }

  // Looks -----------------------------------------------------------------------------------------------------------

  toggleGrid() {
    this.view.showGrid = !this.view.showGrid;
    this.view.redraw("grid");
    this.panel.render();
  }

  setOpacity(opacity) {
    this.view.opacity = opacity;
    this.view.redraw("mask");
    this.panel.render();
  }

  /** Looks under the mask while a key or the button is held. */
  peek(on) {
    if (this.view.peeking === on) return;
    this.view.peeking = on;
    this.view.redraw("grid", "mask");
  }

  cycleOpacity() {
    this.setOpacity(OPACITIES[(OPACITIES.indexOf(this.view.opacity) + 1) % OPACITIES.length]);
  }

  cycleTheme() {
    const order = ["auto", "light", "dark"], now = document.documentElement.dataset.theme ?? "auto";
    setTheme(order[(order.indexOf(now) + 1) % order.length]);
    this.panel.say(`Colours: ${document.documentElement.dataset.theme}`);
  }

  toggleList() {
    $("#sidebar").classList.toggle("folded");
    const folded = $("#sidebar").classList.contains("folded");
    $("#list-button").setAttribute("aria-expanded", String(!folded));
  }

  focusNote() {
    this.panel.focusNote();
  }

  openHelp() {
    $("#help").showModal();
  }

  openJump() {
    jumpDialog(this);
  }
}

function sameContent(a, b) {
  const equal = (x, y) => x === y || (x.length === y.length && x.every((value, i) => value === y[i]));
  return a.verdict === b.verdict && a.note === b.note && a.accepted === b.accepted && equal(a.classes, b.classes) && equal(a.kinds, b.kinds);
}

export function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  keep("badhands:theme", theme);
}

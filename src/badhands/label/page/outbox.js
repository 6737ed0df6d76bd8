// Changes on their way to the server. Each is kept in localStorage until the server says that it is on its disk, so a
// closed page or a dead server loses nothing. A change is the whole state of an item: a newer one replaces an older one.

import { forget, keep, names, recall, recallJson, uniqueName } from "./store.js";
import { keyOf } from "./study.js";

const ALIVE_EVERY = 2000, DEAD_AFTER = 7000;
const RETRY = [200, 400, 800, 1500];

export class Outbox extends EventTarget {
  #entries = new Map();
  #sending = false;
  #failures = 0;
  #timer = null;

  constructor(study) {
    super();
    this.study = study;
    this.tab = uniqueName();
    this.prefix = `badhands:unsent:${study.id}:${study.annotator}:`;
    this.server = "unknown"; // alive, dead, or other: it serves another study or lets us in no more
    this.reason = "";
    this.lastSaved = null;
    this.stored = true; // false once the browser's storage took a change no more: it is sent all the same
    this.#adoptOrphans();
    this.#sign();
    setInterval(() => this.#sign(), ALIVE_EVERY);
    setInterval(() => this.#watch(), 3000);
    addEventListener("online", () => this.#soon(0));
    addEventListener("pagehide", () => forget(this.#signKey(this.tab)));
    // A page that comes back from the back-forward cache is alive again.
    addEventListener("pageshow", (event) => event.persisted && this.#sign());
    addEventListener("beforeunload", (event) => {
      if (this.#entries.size && (this.server !== "alive" || !this.stored)) event.preventDefault();
    });
  }

  get waiting() {
    return this.#entries.size;
  }

  get blocked() {
    return [...this.#entries.values()].filter((entry) => entry.refused);
  }

  has(item) {
    return this.#entries.has(keyOf(item));
  }

  /** Queues the state of an item, kept by the browser before this returns if it can, and sends it as soon as it can. */
  put(item, payload) {
    const key = keyOf(item), older = this.#entries.get(key);
    const entry = {
      item, payload, change: uniqueName(),
      base: older ? older.base : this.study.revisions.get(key) ?? 0,
      own: older ? [...older.own] : [],
    };
    this.#entries.set(key, entry);
    this.#keep(entry);
    this.#tell();
    this.#soon(0);
    return entry.change;
  }

  /** Sends a change over the one that another tab made: the annotator chose this one. */
  overwrite(item, revision) {
    const entry = this.#entries.get(keyOf(item));
    Object.assign(entry, { base: revision, own: [], refused: null });
    this.#keep(entry);
    this.#tell();
    this.#soon(0);
  }

  drop(item) {
    const key = keyOf(item);
    forget(this.#storeKey(this.tab, key));
    this.#entries.delete(key);
    this.stored = this.stored || !this.#entries.size;
    this.#tell();
  }

  /** States that wait here and are newer than the server's: [item, payload]. */
  unsent() {
    return [...this.#entries.values()].map((entry) => [entry.item, entry.payload]);
  }

  async #send() {
    if (this.#sending) return;
    this.#sending = true;
    try {
      for (let entry; (entry = [...this.#entries.values()].find((e) => !e.refused));) {
        if (!await this.#sendOne(entry)) return;
      }
    } finally {
      this.#sending = false;
      this.#tell();
    }
  }

  /** Whether the next change may be tried at once. */
  async #sendOne(entry) {
    const key = keyOf(entry.item);
    const body = JSON.stringify({ ...entry.payload, base: entry.base, own: entry.own, change: entry.change });
    // From here on it may have arrived, whatever we hear: the next attempt says so.
    if (!entry.own.includes(entry.change)) entry.own = [...entry.own, entry.change].slice(-500);
    this.#keep(entry);
    let response, answer;
    try {
      response = await fetch(`api/labels/${encodeURIComponent(entry.item.id)}`, {
        method: "POST", body, headers: { "Content-Type": "application/json" }, signal: AbortSignal.timeout(8000),
      });
      answer = await response.json();
    } catch {
      this.#down();
      return false;
    }
    if (response.status >= 500) { // a full or read-only disk: the server's own words
      this.#other(answer.error ?? `The server answers ${response.status}.`);
      return false;
    }
    this.#up();
    if (response.ok) {
      this.study.revisions.set(key, answer.revision);
      this.lastSaved = new Date(answer.time);
      const now = this.#entries.get(key);
      if (now?.change === entry.change) this.drop(entry.item);
      else if (now) {
        Object.assign(now, { base: answer.revision, own: [] });
        this.#keep(now);
      }
      this.dispatchEvent(new CustomEvent("saved", { detail: { item: entry.item, change: entry.change, answer } }));
    } else if (response.status === 409 && answer.label) {
      entry.refused = "conflict";
      this.dispatchEvent(new CustomEvent("conflict", { detail: { item: entry.item, payload: entry.payload, label: answer.label } }));
    } else if (response.status === 401 || response.status === 403 || (response.status === 409 && answer.study)) {
      this.#other(answer.error);
      return false;
    } else {
      entry.refused = answer.error ?? `status ${response.status}`;
      this.dispatchEvent(new CustomEvent("refused", { detail: { item: entry.item, error: entry.refused } }));
    }
    return true;
  }

  #up() {
    this.#failures = 0;
    this.server = "alive";
    this.reason = "";
    this.#tell();
  }

  #down() {
    this.server = "dead";
    this.#soon(RETRY[Math.min(this.#failures++, RETRY.length - 1)]);
    this.#tell();
  }

  #other(reason) {
    this.server = "other";
    this.reason = reason;
    this.#soon(3000);
    this.#tell();
  }

  #soon(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#send(), delay);
  }

  /** Notices a dead server while nothing is being sent, and changes that another, closed tab left behind. */
  async #watch() {
    if (this.#adoptOrphans()) this.#soon(0);
    if (this.#sending || document.hidden) return;
    try {
      const response = await fetch("api/alive", { signal: AbortSignal.timeout(4000) });
      const { study, error } = await response.json();
      if (!response.ok) return this.#other(error ?? `The server answers ${response.status}.`);
      if (study !== this.study.id) return this.#other("Another study is being served at this address now.");
      if (this.server === "other" && this.waiting) return this.#soon(0); // it is the sending that failed: only that can clear it
      const back = this.server !== "alive";
      this.#up();
      if (back && this.waiting) this.#soon(0);
    } catch {
      this.server = "dead";
      this.reason = "";
      this.#tell();
    }
  }

  #tell() {
    this.dispatchEvent(new Event("status"));
  }

  #storeKey(tab, key) {
    return `${this.prefix}${tab}:${key}`;
  }

  #signKey(tab) {
    return `badhands:tab:${tab}`;
  }

  #sign() {
    keep(this.#signKey(this.tab), String(Date.now()));
  }

  #keep(entry) {
    const name = this.#storeKey(this.tab, keyOf(entry.item));
    if (keep(name, JSON.stringify(entry))) return true;
    this.stored = false;
    forget(name); // rather nothing than an older state
    return false;
  }

  /** Takes over what a tab that is gone left unsent. An item that waits here already keeps this tab's change. */
  #adoptOrphans() {
    let adopted = 0;
    for (const name of names().filter((name) => name.startsWith(this.prefix))) {
      const [tab] = name.slice(this.prefix.length).split(":");
      const sign = Number(recall(this.#signKey(tab)));
      if (tab === this.tab || Date.now() - sign < DEAD_AFTER) continue;
      const entry = recallJson(name), key = entry?.item && keyOf(entry.item);
      if (!key || this.#entries.has(key)) continue;
      this.#entries.set(key, entry);
      adopted++;
      this.dispatchEvent(new CustomEvent("adopted", { detail: { item: entry.item, payload: entry.payload } }));
      if (!this.#keep(entry)) continue; // the other tab's copy stays until there is room
      forget(name);
      forget(this.#signKey(tab));
    }
    return adopted;
  }
}

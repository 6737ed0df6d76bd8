// Changes on their way to the server. Each is kept in localStorage until the server says that it is on its disk, so a
// closed page or a dead server loses nothing. A change is the whole state of an item: a newer one replaces an older one.

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
    this.tab = crypto.randomUUID();
    this.prefix = `badhands:unsent:${study.id}:${study.annotator}:`;
    this.server = "unknown"; // alive, dead, or other: it serves another study or lets us in no more
    this.lastSaved = null;
    this.#adoptOrphans();
    this.#sign();
    setInterval(() => this.#sign(), ALIVE_EVERY);
    setInterval(() => this.#watch(), 3000);
    addEventListener("online", () => this.#soon(0));
    addEventListener("pagehide", () => localStorage.removeItem(this.#signKey(this.tab)));
    // A page that comes back from the back-forward cache is alive again.
    addEventListener("pageshow", (event) => event.persisted && this.#sign());
    addEventListener("beforeunload", (event) => {
      if (this.#entries.size && this.server !== "alive") event.preventDefault();
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

  /** Queues the state of an item, on disk here before this returns, and sends it as soon as it can. */
  put(item, payload) {
    const key = keyOf(item), older = this.#entries.get(key);
    const entry = {
      item, payload, change: crypto.randomUUID(),
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
    localStorage.removeItem(this.#storeKey(this.tab, key));
    this.#entries.delete(key);
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
      if (response.status >= 500) throw new Error(`status ${response.status}`);
      answer = await response.json();
    } catch {
      this.#down();
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
      if (!response.ok) throw new Error(`status ${response.status}`);
      const { study } = await response.json();
      if (study !== this.study.id) return this.#other("Another study is being served at this address now.");
      const back = this.server !== "alive";
      this.#up();
      if (back && this.waiting) this.#soon(0);
    } catch {
      this.server = "dead";
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
    localStorage.setItem(this.#signKey(this.tab), String(Date.now()));
  }

  #keep(entry) {
    localStorage.setItem(this.#storeKey(this.tab, keyOf(entry.item)), JSON.stringify(entry));
  }

  /** Takes over what a tab that is gone left unsent. An item that waits here already keeps this tab's change. */
  #adoptOrphans() {
    let adopted = 0;
    for (const name of Object.keys(localStorage).filter((name) => name.startsWith(this.prefix))) {
      const [tab] = name.slice(this.prefix.length).split(":");
      const sign = Number(localStorage.getItem(this.#signKey(tab)));
      if (tab === this.tab || Date.now() - sign < DEAD_AFTER) continue;
      const entry = JSON.parse(localStorage.getItem(name)), key = keyOf(entry.item);
      if (this.#entries.has(key)) continue;
      this.#entries.set(key, entry);
      this.#keep(entry);
      localStorage.removeItem(name);
      localStorage.removeItem(this.#signKey(tab));
      adopted++;
      this.dispatchEvent(new CustomEvent("adopted", { detail: { item: entry.item, payload: entry.payload } }));
    }
    return adopted;
  }
}

// The list of images with its filters, and the progress above it.

import { FILTERS, isDone, listed, progress } from "./plan.js";
import { isPainted, itemOf, keyOf, same } from "./study.js";

const VERDICTS = { good: "good", bad: "bad", no_hand: "no hand", skip: "skipped" };

const ROW = 70, MORE = 8; // CSS pixels from one row to the next; rows made beyond what is in sight

export class Sidebar {
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.filter = root.querySelector("#filter");
    this.filter.append(...Object.entries(FILTERS).map(([value, { label }]) => new Option(label, value)));
    this.filter.addEventListener("change", () => app.setFilter(this.filter.value));
    this.list = root.querySelector("#thumbs");
    this.list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) app.open(itemOf(button.dataset.key), { focus: true });
    });
    this.items = [];
    this.buttons = new Map();
    this.list.addEventListener("scroll", () => this.#window(), { passive: true });
    new ResizeObserver(() => this.#window()).observe(this.list);
  }

  render() {
    const { study, mode, filter, item } = this.app;
    this.filter.value = filter;
    this.items = listed(study, mode, filter, item);
    this.root.querySelector("#listed").textContent = this.items.length === 1 ? "1 image" : `${this.items.length} images`;
    this.#window();
    this.#progress();
  }

  scrollToCurrent() {
    const at = this.items.findIndex((item) => same(item, this.app.item)) * ROW, { scrollTop, clientHeight } = this.list;
    if (at >= 0 && (at < scrollTop || at + ROW > scrollTop + clientHeight)) this.list.scrollTop = at - clientHeight / 2;
    this.#window();
  }

  /** Makes the rows in sight, and some more: a study may have thousands. */
  #window() {
    const { items, list } = this;
    const first = Math.max(0, Math.min(items.length, Math.floor(list.scrollTop / ROW)) - MORE);
    const last = Math.min(items.length, first + Math.ceil(list.clientHeight / ROW) + 2 * MORE);
    const wanted = items.slice(first, last).map((item) => this.#entry(item)), shown = [...list.children];
    list.style.setProperty("--above", `${first * ROW}px`);
    list.style.setProperty("--below", `${(items.length - last) * ROW}px`);
    if (wanted.length !== shown.length || wanted.some((entry, i) => entry !== shown[i])) {
      const focused = list.contains(document.activeElement) ? document.activeElement : null;
      list.replaceChildren(...wanted);
      focused?.focus({ preventScroll: true });
    }
    wanted.forEach((entry, i) => {
      entry.setAttribute("aria-setsize", items.length);
      entry.setAttribute("aria-posinset", first + i + 1);
      this.#refresh(items[first + i], entry.firstChild);
    });
    if (this.buttons.size > 500) this.buttons = new Map(wanted.map((entry) => [entry.firstChild.dataset.key, entry]));
  }

  #entry(item) {
    const key = keyOf(item);
    if (!this.buttons.has(key)) {
      const button = document.createElement("button");
      button.dataset.key = key;
      const { width, height } = this.app.study.images.get(item.id);
      const picture = Object.assign(new Image(), { loading: "lazy", decoding: "async", alt: "", src: `api/thumbnails/${encodeURIComponent(item.id)}` });
      picture.style.aspectRatio = `${width} / ${height}`;
      const name = Object.assign(document.createElement("span"), { className: "name", textContent: item.id });
      const mark = Object.assign(document.createElement("span"), { className: "mark" });
      button.append(picture, name, mark);
      const entry = document.createElement("li");
      entry.append(button);
      this.buttons.set(key, entry);
    }
    return this.buttons.get(key);
  }

  #refresh(item, button) {
    const { study, mode, outbox } = this.app, state = study.state(item);
    const words = [];
    // A repeat is to be judged afresh, so nothing tells it from a first showing where one labels.
    if (item.repeat && FILTERS[this.app.filter].base === "all") words.push("again");
    words.push(state.verdict ? VERDICTS[state.verdict] : "to do");
    if (isPainted(state)) words.push("painted");
    if (outbox?.has(item)) words.push("unsent");
    // Who judged otherwise is shown where one looks for it, not while one makes up one's mind.
    const others = this.app.filter === "disagreements" ? study.disagreements.get(item.id) : null;
    button.dataset.verdict = state.verdict ?? "";
    button.dataset.done = isDone(study, item, mode);
    button.querySelector(".mark").textContent = words.join(" · ") + (others ? ` · not as ${others.join(", ")}` : "");
    button.setAttribute("aria-current", String(same(item, this.app.item)));
  }

  #progress() {
    const { study, mode } = this.app, now = progress(study, mode);
    const bar = this.root.querySelector("#done");
    bar.max = Math.max(1, now.total);
    bar.value = now.done + now.aside;
    const parts = [`${now.done} of ${now.total} images ${mode === "triage" ? "triaged" : "painted"}`];
    if (now.aside) parts.push(`${now.aside} without a mask`);
    parts.push(`${now.left} left`);
    if (mode === "paint" && now.untriaged) parts.push(`more may come: ${now.untriaged} not triaged yet`);
    if (now.repeats.done) parts.push(`${now.repeats.done} seen twice`);
    this.root.querySelector("#done-text").textContent = parts.join(", ");
    const { good, bad, no_hand, skip } = now.verdicts, balance = this.root.querySelector("#balance");
    balance.querySelector(".good").style.flexGrow = good;
    balance.querySelector(".bad").style.flexGrow = bad;
    balance.querySelector(".none").style.flexGrow = no_hand + skip;
    this.root.querySelector("#balance-text").textContent =
      `${good} good, ${bad} bad, ${no_hand} no hand${skip ? `, ${skip} skipped` : ""}`;
    this.root.querySelector("#pace").textContent = now.seconds === null ? "Speed: after the first image"
      : `${now.seconds.toFixed(1)} s an image${now.secondsLeft ? `, about ${duration(now.secondsLeft)} left` : ""}`;
  }
}

function duration(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : seconds < 5400 ? `${Math.ceil(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

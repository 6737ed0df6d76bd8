// The list of images with its filters, and the progress above it.

import { FILTERS, isDone, listed, progress } from "./plan.js";
import { isPainted, itemOf, keyOf } from "./study.js";

const VERDICTS = { good: "good", bad: "bad", no_hand: "no hand", skip: "skipped" };

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
    this.buttons = new Map();
  }

  render() {
    const { study, mode, filter, item } = this.app;
    this.filter.value = filter;
    const items = listed(study, mode, filter, item);
    this.root.querySelector("#listed").textContent = items.length === 1 ? "1 image" : `${items.length} images`;
    const keys = items.map(keyOf), shown = [...this.list.children].map((child) => child.firstChild.dataset.key);
    if (keys.join() !== shown.join()) this.list.replaceChildren(...items.map((one) => this.#entry(one)));
    for (const one of items) this.#refresh(one);
    this.#progress();
  }

  scrollToCurrent() {
    this.list.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest" });
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

  #refresh(item) {
    const { study, mode, outbox } = this.app, state = study.state(item), button = this.#entry(item).firstChild;
    const words = [];
    if (item.repeat) words.push("repeat");
    words.push(state.verdict ? VERDICTS[state.verdict] : "to do");
    if (isPainted(state)) words.push("painted");
    if (outbox?.has(item)) words.push("unsent");
    // Who judged otherwise is shown where one looks for it, not while one makes up one's mind.
    const others = this.app.filter === "disagreements" ? study.disagreements.get(item.id) : null;
    button.dataset.verdict = state.verdict ?? "";
    button.dataset.done = isDone(study, item, mode);
    button.querySelector(".mark").textContent = words.join(" · ") + (others ? ` · not as ${others.join(", ")}` : "");
    button.setAttribute("aria-current", String(keyOf(item) === (this.app.item && keyOf(this.app.item))));
  }

  #progress() {
    const { study, mode } = this.app, now = progress(study, mode);
    const bar = this.root.querySelector("#done");
    bar.max = Math.max(1, now.total);
    bar.value = now.done;
    this.root.querySelector("#done-text").textContent = `${now.done} of ${now.total} ${mode === "triage" ? "triaged" : "painted"}, ${now.left} left`;
    const { good, bad, no_hand, skip } = now.verdicts, balance = this.root.querySelector("#balance");
    balance.querySelector(".good").style.flexGrow = good;
    balance.querySelector(".bad").style.flexGrow = bad;
    balance.querySelector(".none").style.flexGrow = no_hand + skip;
    this.root.querySelector("#balance-text").textContent =
      `${good} good, ${bad} bad, ${no_hand} no hand${skip ? `, ${skip} skipped` : ""}`;
    this.root.querySelector("#pace").textContent = now.seconds === null ? "Speed: after the first image"
      : `${now.seconds.toFixed(1)} s an image${now.left ? `, about ${duration(now.secondsLeft)} left` : ""}`;
  }
}

function duration(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : seconds < 5400 ? `${Math.ceil(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

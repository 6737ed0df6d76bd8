// What comes next: the order of triage, the balanced set for painting, filters and progress.

import { isPainted, same } from "./study.js";

/** A repeat is shown `lag` images after its first showing; where the list ends before, not at all: one would remember. */
export function withRepeats(ids, again, lag) {
  const items = [], due = [];
  ids.forEach((id, position) => {
    while (due.length && due[0].at <= position) items.push({ id: due.shift().id, repeat: 1 });
    items.push({ id, repeat: 0 });
    if (again.has(id)) due.push({ id, at: position + lag + 1 });
  });
  return items;
}

/** All bad images and as many good ones: those already painted first, then in the study's order. */
export function balancedSet(study) {
  const bad = [], painted = [], blank = [];
  for (const id of study.order) {
    const state = study.state({ id, repeat: 0 });
    if (state.verdict === "bad") bad.push(id);
    else if (state.verdict === "good") (isPainted(state) ? painted : blank).push(id);
  }
  const chosen = new Set([...bad, ...[...painted, ...blank].slice(0, Math.max(bad.length, painted.length))]);
  return study.order.filter((id) => chosen.has(id));
}

const kept = new WeakMap(); // of a study: what was made of its states, until they change

function once(study, name, make) {
  const now = kept.get(study);
  if (now?.version !== study.version) kept.set(study, { version: study.version });
  const values = kept.get(study);
  return values[name] ??= make();
}

const planned = (study, mode) => once(study, `planned ${mode}`, () =>
  withRepeats(mode === "triage" ? study.order : balancedSet(study), study.again, study.lag));

export function queue(study, mode) {
  // A repeat makes sense only after its first showing is labelled.
  return once(study, `queue ${mode}`, () =>
    planned(study, mode).filter((item) => !item.repeat || isDone(study, { id: item.id, repeat: 0 }, mode)));
}

export function isDone(study, item, mode) {
  const state = study.state(item);
  if (mode === "triage") return state.verdict !== null;
  return isPainted(state) || state.verdict === "no_hand" || state.verdict === "skip";
}

const verdictIs = (verdict) => (study, item) => study.state(item).verdict === verdict;

/** Filters of the image list. `base` says what they choose from: the mode's queue, or every image. */
export const FILTERS = {
  todo: { label: "To do", base: "queue", keep: (study, item, mode) => !isDone(study, item, mode) },
  queue: { label: "To do and done", base: "queue", keep: () => true },
  bad: { label: "Bad", base: "all", keep: verdictIs("bad") },
  good: { label: "Good", base: "all", keep: verdictIs("good") },
  no_hand: { label: "No hand", base: "all", keep: verdictIs("no_hand") },
  skip: { label: "Skipped", base: "all", keep: verdictIs("skip") },
  disagreements: { label: "Disagreements", base: "all", keep: (study, item) => study.disagreements.has(item.id) },
  all: { label: "All images", base: "all", keep: () => true },
};

export function base(study, mode, filter) {
  if (FILTERS[filter].base === "queue") return queue(study, mode);
  return once(study, "all", () => {
    const items = study.order.map((id) => ({ id, repeat: 0 }));
    for (const id of study.order) if (study.known({ id, repeat: 1 })) items.push({ id, repeat: 1 });
    return items;
  });
}

/** Items of the list under a filter; the item on screen stays in it. */
export function listed(study, mode, filter, current) {
  return base(study, mode, filter).filter((item) => FILTERS[filter].keep(study, item, mode) || same(item, current));
}

/** The next item under the filter after `current` (direction 1) or before it (-1), wrapping round; null if none is left. */
export function neighbour(study, mode, filter, current, direction = 1) {
  const items = base(study, mode, filter), here = current ? items.findIndex((item) => same(item, current)) : -1;
  const start = here < 0 && direction < 0 ? 0 : here;
  for (let i = 1; i <= items.length; i++) {
    const item = items[(start + direction * i + items.length * 2) % items.length];
    if (same(item, current)) continue;
    if (FILTERS[filter].keep(study, item, mode)) return item;
  }
  return null;
}

/**
 * Counts of images (a repeat is no image more), of the repeats that are due, of verdicts; median seconds an image, and
 * seconds left. `done` are images with a verdict, or painted ones; `aside` those that turned out to need no painting.
 */
export function progress(study, mode) {
  const items = planned(study, mode), verdicts = { good: 0, bad: 0, no_hand: 0, skip: 0 };
  for (const id of study.order) {
    const { verdict } = study.state({ id, repeat: 0 });
    if (verdict) verdicts[verdict]++;
  }
  const first = items.filter((item) => !item.repeat), again = items.filter((item) => item.repeat);
  const over = (list) => list.filter((item) => isDone(study, item, mode));
  const finished = over(first);
  const aside = mode === "paint" ? finished.filter((item) => !isPainted(study.state(item))).length : 0;
  const spent = over(items).map((item) => study.state(item))
    .filter((state) => isPainted(state) === (mode === "paint") && state.seconds > 0)
    .map((state) => state.seconds).sort((a, b) => a - b);
  const seconds = spent.length ? spent[Math.floor(spent.length / 2)] : null;
  const repeats = { done: over(again).length, total: again.length };
  const left = first.length - finished.length, showings = left + repeats.total - repeats.done;
  return {
    done: finished.length - aside, aside, total: first.length, left, repeats, verdicts, seconds,
    untriaged: study.order.length - verdicts.good - verdicts.bad - verdicts.no_hand - verdicts.skip,
    secondsLeft: seconds === null ? null : seconds * showings,
  };
}

// The mask of one image: a class and an error kind for each token, row-major on an (h, w) grid.
// Pure functions; nothing here knows of the page.

export const UNLABELLED = 0, GOOD = 1, BAD = 2, NOT_HAND = 3;
export const LOCAL = 1, GLOBAL = 2;

/** Run lengths [[value, run], ...] of a token array, as labels.jsonl stores them. */
export function toRuns(values) {
  const runs = [];
  for (let start = 0; start < values.length;) {
    let end = start + 1;
    while (end < values.length && values[end] === values[start]) end++;
    runs.push([values[start], end - start]);
    start = end;
  }
  return runs;
}

/** Inverse of toRuns; throws if the runs do not fill exactly `length` tokens. */
export function fromRuns(runs, length) {
  const values = new Uint8Array(length);
  let at = 0;
  for (const [value, run] of runs ?? [[0, length]]) {
    values.fill(value, at, at + run);
    at += run;
  }
  if (at !== length) throw new Error(`the mask has ${at} tokens, the grid ${length}`);
  return values;
}

/** Tokens that a round brush of `size` tokens touches on its way from (x0, y0) to (x1, y1), in token units. */
export function brushTokens(grid, x0, y0, x1, y1, size) {
  const tokens = new Set();
  const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 0.5));
  for (let i = 0; i <= steps; i++) {
    const x = x0 + (x1 - x0) * i / steps, y = y0 + (y1 - y0) * i / steps;
    addDisc(tokens, grid, x, y, size);
  }
  return tokens;
}

function addDisc(tokens, { h, w }, x, y, size) {
  const column = Math.floor(x), row = Math.floor(y);
  if (row >= 0 && row < h && column >= 0 && column < w) tokens.add(row * w + column);
  if (size <= 1) return;
  const radius = size / 2;
  for (let r = Math.max(0, Math.floor(y - radius)); r <= Math.min(h - 1, Math.floor(y + radius)); r++) {
    for (let c = Math.max(0, Math.floor(x - radius)); c <= Math.min(w - 1, Math.floor(x + radius)); c++) {
      if ((c + 0.5 - x) ** 2 + (r + 0.5 - y) ** 2 <= radius ** 2) tokens.add(r * w + c);
    }
  }
}

/** Tokens of the rectangle that has two opposite corners at these points (token units), both corner tokens included. */
export function rectangleTokens({ h, w }, x0, y0, x1, y1) {
  const clamp = (value, limit) => Math.min(limit - 1, Math.max(0, Math.floor(value)));
  const [left, right] = [clamp(Math.min(x0, x1), w), clamp(Math.max(x0, x1), w)];
  const [top, bottom] = [clamp(Math.min(y0, y1), h), clamp(Math.max(y0, y1), h)];
  const tokens = new Set();
  for (let r = top; r <= bottom; r++) for (let c = left; c <= right; c++) tokens.add(r * w + c);
  return tokens;
}

/** Tokens whose centre lies inside the closed polygon (even-odd); with `corners` also those that its corners lie in. */
export function lassoTokens({ h, w }, points, corners) {
  const tokens = new Set();
  for (const [x, y] of corners ? points : []) {
    if (x >= 0 && y >= 0 && x < w && y < h) tokens.add(Math.floor(y) * w + Math.floor(x));
  }
  for (let r = 0; r < h; r++) {
    const y = r + 0.5, crossings = [];
    for (let i = 0; i < points.length; i++) {
      const [x0, y0] = points[i], [x1, y1] = points[(i + 1) % points.length];
      if ((y0 <= y) !== (y1 <= y)) crossings.push(x0 + (y - y0) / (y1 - y0) * (x1 - x0));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const first = Math.max(0, Math.ceil(crossings[i] - 0.5));
      for (let c = first; c < w && c + 0.5 <= crossings[i + 1]; c++) tokens.add(r * w + c);
    }
  }
  return tokens;
}

/** The connected region of one class around `token`. Hands join over corners (8), a fill does not leak through them (4). */
export function region({ h, w }, classes, token, corners) {
  const wanted = classes[token], tokens = new Set([token]), open = [token];
  while (open.length) {
    const at = open.pop(), row = Math.floor(at / w), column = at % w;
    for (let dr = -1; dr <= 1; dr++) {
      for (let dc = -1; dc <= 1; dc++) {
        if (!corners && dr && dc) continue;
        const r = row + dr, c = column + dc, next = r * w + c;
        if (r < 0 || c < 0 || r >= h || c >= w || classes[next] !== wanted || tokens.has(next)) continue;
        tokens.add(next);
        open.push(next);
      }
    }
  }
  return tokens;
}

/** All hands of a mask: connected regions of good or of bad tokens, with the middle of each in token units. */
export function hands(grid, classes, kinds) {
  const found = [], seen = new Uint8Array(classes.length);
  for (let token = 0; token < classes.length; token++) {
    if (seen[token] || (classes[token] !== GOOD && classes[token] !== BAD)) continue;
    const tokens = region(grid, classes, token, true);
    let x = 0, y = 0;
    for (const t of tokens) {
      seen[t] = 1;
      x += t % grid.w + 0.5;
      y += Math.floor(t / grid.w) + 0.5;
    }
    found.push({ tokens, class: classes[token], kind: kinds[token], x: x / tokens.size, y: y / tokens.size });
  }
  return found;
}

/** How many tokens of each class: [unlabelled, good, bad, not hand]. */
export function counts(classes) {
  const total = [0, 0, 0, 0];
  for (const value of classes) total[value]++;
  return total;
}

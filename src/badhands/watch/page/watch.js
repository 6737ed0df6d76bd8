"use strict";
// The whole page: `data` holds head and frames; a served page fetches frames as they come.
const by = (id) => document.getElementById(id);
const embedded = by("data");
const data = embedded ? JSON.parse(embedded.textContent) : { title: "", grid: [1, 1], blocks: [], colours: ["#fff"], frames: [], state: "loading the model", final: null };
const pictures = new Map(); // address -> Image
let at = 0, follow = true, timer = null, pointed = null, run = null, ended = false;

const colour = (p) => data.colours[Math.round((p / 1000) * (data.colours.length - 1))];

// P(bad) of the image, if there is a verdict: a hand, a probe, and a cell that tells bad from good better than a coin.
const verdict = (seen) => (seen && seen.p !== null && (seen.auroc === null || seen.auroc > 0.5) ? seen.p : null);

function picture(address) {
  if (!pictures.has(address)) {
    const image = new Image();
    image.onload = draw;
    image.src = address;
    pictures.set(address, image);
  }
  return pictures.get(address);
}

function shape() { // what the head says: title, blocks, size
  by("title").textContent = data.title || "badhands: watch";
  by("state").textContent = data.state;
  const select = by("block"), chosen = select.value;
  if (select.options.length !== data.blocks.length) {
    select.replaceChildren(...data.blocks.map((name) => new Option(name, name)));
    select.value = data.blocks.includes(chosen) ? chosen : data.first || data.blocks[0] || "";
  }
  const slider = by("slider");
  slider.max = Math.max(0, data.frames.length - 1);
  if (follow) at = data.frames.length - 1;
  at = Math.max(0, Math.min(at, data.frames.length - 1));
  slider.value = at;
  slider.disabled = data.frames.length < 2;
  if (data.final) { by("final").hidden = false; by("final").querySelector("img").src = data.final; }
  else by("final").hidden = true;
  const ramp = by("ramp").getContext("2d");
  for (let y = 0; y < 200; y++) { ramp.fillStyle = colour(1000 * (1 - y / 199)); ramp.fillRect(0, y, 18, 1); }
  draw();
}

function draw() {
  const frame = data.frames[at], view = by("view"), [h, w] = data.grid;
  const side = Math.max(1, Math.floor(1024 / Math.max(h, w)));
  if (view.width !== w * side || view.height !== h * side) { view.width = w * side; view.height = h * side; }
  const pen = view.getContext("2d");
  pen.fillStyle = "#808080";
  pen.fillRect(0, 0, view.width, view.height);
  if (!frame) return;
  if (frame.picture) {
    const image = picture(frame.picture);
    if (image.complete && image.naturalWidth) { pen.imageSmoothingEnabled = true; pen.drawImage(image, 0, 0, view.width, view.height); }
  }
  const seen = frame.blocks[by("block").value];
  by("when").textContent = `step ${frame.step + 1}/${frame.num_steps} · timestep ${frame.timestep} · σ ${frame.sigma.toFixed(3)} · ${by("block").value}`;
  const said = `step ${frame.step + 1} of ${frame.num_steps}, timestep ${frame.timestep}`;
  by("where").textContent = said;
  by("slider").setAttribute("aria-valuetext", said);
  const p = verdict(seen);
  by("score").textContent = p === null ? "no verdict" : `P(bad) ${p.toFixed(2)}`;
  by("trust").textContent = !seen ? "No probe was trained for this block and timestep."
    : seen.p === null ? "No hand was found at this step."
      : (seen.auroc === null ? "How well this cell does on held-out images is not recorded."
        : `On held-out images of its study this cell reaches AUROC ${seen.auroc.toFixed(2)}${p === null ? ": no better than a coin." : "."}`)
        + ` ${seen.tokens} hand tokens.`;
  if (seen && by("tint").checked) {
    const is = (r, c) => r >= 0 && c >= 0 && r < h && c < w && seen.hand[r * w + c] === 1;
    for (let r = 0; r < h; r++) for (let c = 0; c < w; c++) {
      if (!is(r, c)) continue;
      pen.globalCompositeOperation = "saturation"; // grey under the colour: skin and vermillion mixed would lie
      pen.fillStyle = "#808080";
      pen.fillRect(c * side, r * side, side, side);
      pen.globalCompositeOperation = "source-over";
      pen.globalAlpha = 0.62;
      pen.fillStyle = colour(seen.p_bad[r * w + c]);
      pen.fillRect(c * side, r * side, side, side);
      pen.globalAlpha = 1;
      pen.fillStyle = "#1a1a1a";
      const t = Math.max(1, side / 12);
      if (!is(r - 1, c)) pen.fillRect(c * side, r * side, side, t);
      if (!is(r + 1, c)) pen.fillRect(c * side, (r + 1) * side - t, side, t);
      if (!is(r, c - 1)) pen.fillRect(c * side, r * side, t, side);
      if (!is(r, c + 1)) pen.fillRect((c + 1) * side - t, r * side, t, side);
    }
  }
  if (pointed && document.activeElement === view) { // where the arrow keys are
    pen.lineWidth = Math.max(3, side / 8);
    pen.strokeStyle = "#000";
    pen.strokeRect(pointed[1] * side, pointed[0] * side, side, side);
    pen.lineWidth = Math.max(1, side / 20);
    pen.strokeStyle = "#fff";
    pen.strokeRect(pointed[1] * side, pointed[0] * side, side, side);
  }
  tell();
  curve();
}

function tell() { // the patch under the pointer
  const frame = data.frames[at], seen = frame && frame.blocks[by("block").value];
  if (!pointed || !seen) { by("hover").textContent = "Point at a patch, or focus the picture and use the arrow keys."; return; }
  const k = pointed[0] * data.grid[1] + pointed[1];
  by("hover").textContent = `row ${pointed[0]}, column ${pointed[1]}: P(hand) ${(seen.p_hand[k] / 1000).toFixed(3)}` +
    (seen.hand[k] ? `, P(bad) ${(seen.p_bad[k] / 1000).toFixed(3)}` : ", not called hand");
}

function curve() { // P(bad) of the image over the steps, all blocks thin, the chosen one thick
  const box = by("curve"), pen = box.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, box.width, box.height);
  const last = data.frames.length ? data.frames[0].num_steps - 1 : 1, left = 84, bottom = box.height - 84, top = 20;
  const x = (s) => left + 16 + (s / Math.max(1, last)) * (box.width - left - 40), y = (v) => bottom - v * (bottom - top);
  pen.font = "22px sans-serif";
  pen.fillStyle = "#333";
  pen.strokeStyle = "#bbb";
  pen.lineWidth = 2;
  pen.textAlign = "right";
  for (const v of [0, 0.5, 1]) {
    pen.beginPath(); pen.moveTo(left, y(v)); pen.lineTo(box.width - 10, y(v)); pen.stroke();
    pen.fillText(String(v), left - 10, y(v) + 8);
  }
  pen.textAlign = "center";
  const every = Math.ceil(data.frames.length / 10);
  data.frames.forEach((f, i) => { if (i % every === 0) pen.fillText(f.timestep, x(f.step), bottom + 30); });
  pen.fillText("timestep, from noise to image", (left + box.width) / 2, box.height - 16);
  pen.save();
  pen.translate(24, (top + bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText("P(bad) of the image", 0, 0);
  pen.restore();
  const order = [...data.blocks].sort((a, b) => (a === by("block").value) - (b === by("block").value)); // the chosen on top
  for (const name of order) {
    const chosen = name === by("block").value;
    pen.strokeStyle = chosen ? "#0072B2" : "#c0c0c0";
    pen.lineWidth = chosen ? 6 : 2;
    pen.beginPath();
    let drawing = false;
    for (const f of data.frames) {
      const p = verdict(f.blocks[name]);
      if (p === null) { drawing = false; continue; }
      if (drawing) pen.lineTo(x(f.step), y(p)); else pen.moveTo(x(f.step), y(p));
      drawing = true;
    }
    pen.stroke();
  }
  const frame = data.frames[at], now = frame && verdict(frame.blocks[by("block").value]);
  if (frame && now !== null) { pen.fillStyle = "#D55E00"; pen.beginPath(); pen.arc(x(frame.step), y(now), 10, 0, 7); pen.fill(); }
}

function go(step) {
  at = Math.max(0, Math.min(data.frames.length - 1, step));
  follow = at === data.frames.length - 1;
  by("slider").value = at;
  draw();
}

by("view").addEventListener("keydown", (event) => {
  const [h, w] = data.grid, by4 = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const select = by("block");
  if (by4 && event.shiftKey && by4[0]) {
    select.selectedIndex = Math.max(0, Math.min(select.options.length - 1, select.selectedIndex + by4[0]));
    draw();
  } else if (by4) {
    const [r, c] = pointed ?? [h >> 1, w >> 1];
    pointed = pointed ? [Math.max(0, Math.min(h - 1, r + by4[0])), Math.max(0, Math.min(w - 1, c + by4[1]))] : [r, c];
    draw();
  } else if (event.key === "PageUp") go(at - 1);
  else if (event.key === "PageDown") go(at + 1);
  else if (event.key === "Home") go(0);
  else if (event.key === "End") go(data.frames.length - 1);
  else if (event.key === " ") by("play").click();
  else if (event.key === "Escape") { pointed = null; draw(); }
  else return;
  event.preventDefault();
});

by("slider").addEventListener("input", (event) => go(Number(event.target.value)));
by("block").addEventListener("change", draw);
by("tint").addEventListener("change", draw);
by("view").addEventListener("pointermove", (event) => {
  const box = by("view").getBoundingClientRect(), [h, w] = data.grid;
  const r = Math.floor(((event.clientY - box.top) / box.height) * h), c = Math.floor(((event.clientX - box.left) / box.width) * w);
  pointed = r >= 0 && c >= 0 && r < h && c < w ? [r, c] : null;
  tell();
});
by("view").addEventListener("pointerleave", () => { pointed = null; tell(); });
by("play").addEventListener("click", () => {
  if (timer) { clearInterval(timer); timer = null; by("play").textContent = "Play"; return; }
  by("play").textContent = "Pause";
  timer = setInterval(() => { follow = false; at = data.frames.length ? (at + 1) % data.frames.length : 0; by("slider").value = at; draw(); }, 500);
});

async function poll() { // a served page: ask for what is new, until it is finished
  try {
    const have = `run=${run ?? ""}&have=${data.frames.length}&final=${data.final ? 1 : 0}`;
    const answer = await (await fetch(`frames?${have}`)).json();
    if (answer.run !== run) { run = answer.run; data.frames = []; data.final = null; follow = true; }
    data.frames.push(...answer.frames);
    Object.assign(data, answer.head, { state: answer.state });
    if ("final" in answer) data.final = answer.final;
    ended = answer.ended;
    if (ended) data.state += " · the watch has ended, this page stays as it is";
    shape();
  } catch (error) { by("state").textContent = `${data.state} · no answer from the server: has the watch been stopped?`; }
  if (!ended) setTimeout(poll, 300);
}

shape();
if (!embedded) poll();

"use strict";
// The whole page: `data` holds head and frames; a served page fetches frames as they come.
const by = (id) => document.getElementById(id);
const embedded = by("data");
const data = embedded ? JSON.parse(embedded.textContent) : { title: "", grid: [1, 1], blocks: [], colours: ["#fff"], frames: [], state: "waiting for the first step", final: null };
const pictures = new Map(); // address -> Image
let at = 0, follow = true, timer = null, pointed = null, run = null;

const colour = (p) => data.colours[Math.round((p / 1000) * (data.colours.length - 1))];
const signed = (x) => (x < 0 ? "−" : "+") + (Math.abs(x) < 1e-3 ? Math.abs(x).toExponential(0) : Number(Math.abs(x).toPrecision(2)));

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
  by("score").textContent = !seen ? "no probe at this step" : seen.score === null ? "no hand found" : `score ${signed(seen.score)}, ${seen.tokens} hand tokens`;
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
  tell();
  curve();
}

function tell() { // the patch under the pointer
  const frame = data.frames[at], seen = frame && frame.blocks[by("block").value];
  if (!pointed || !seen) { by("hover").textContent = "Point at a patch."; return; }
  const k = pointed[0] * data.grid[1] + pointed[1];
  by("hover").textContent = `row ${pointed[0]}, column ${pointed[1]}: P(hand) ${(seen.p_hand[k] / 1000).toFixed(3)}` +
    (seen.hand[k] ? `, P(bad) ${(seen.p_bad[k] / 1000).toFixed(3)}` : ", not called hand");
}

function curve() { // image score over the steps, all blocks thin, the chosen one thick
  const box = by("curve"), pen = box.getContext("2d"), steps = data.frames.map((f) => f.step);
  const values = data.frames.flatMap((f) => Object.values(f.blocks).map((b) => b.score)).filter((v) => v !== null);
  pen.clearRect(0, 0, box.width, box.height);
  const last = data.frames.length ? data.frames[0].num_steps - 1 : 1, top = Math.max(1e-6, ...values.map(Math.abs));
  const x = (s) => 36 + (s / Math.max(1, last)) * (box.width - 50), y = (v) => box.height / 2 - 6 - (v / top) * (box.height / 2 - 20);
  pen.font = "12px sans-serif";
  pen.fillStyle = "#444";
  pen.strokeStyle = "#999";
  pen.lineWidth = 1;
  pen.beginPath(); pen.moveTo(x(0), y(0)); pen.lineTo(x(last), y(0)); pen.stroke();
  for (const v of [top, 0, -top]) pen.fillText(Number(v.toPrecision(2)), 2, y(v) + 4);
  for (const f of data.frames) pen.fillText(f.timestep, x(f.step) - 6, box.height - 3);
  for (const name of data.blocks) {
    const chosen = name === by("block").value;
    pen.strokeStyle = chosen ? "#0072B2" : "#c9c9c9";
    pen.lineWidth = chosen ? 3 : 1;
    pen.beginPath();
    let drawing = false;
    for (const f of data.frames) {
      const seen = f.blocks[name];
      if (!seen || seen.score === null) { drawing = false; continue; }
      if (drawing) pen.lineTo(x(f.step), y(seen.score)); else pen.moveTo(x(f.step), y(seen.score));
      drawing = true;
    }
    pen.stroke();
  }
  if (data.frames[at]) {
    const frame = data.frames[at], seen = frame.blocks[by("block").value];
    pen.fillStyle = "#D55E00";
    if (seen && seen.score !== null) { pen.beginPath(); pen.arc(x(frame.step), y(seen.score), 5, 0, 7); pen.fill(); }
  }
}

by("slider").addEventListener("input", (event) => { at = Number(event.target.value); follow = at === data.frames.length - 1; draw(); });
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
    const answer = await (await fetch(`frames?run=${run ?? ""}&have=${data.frames.length}`)).json();
    if (answer.run !== run) { run = answer.run; data.frames = []; follow = true; }
    data.frames.push(...answer.frames);
    Object.assign(data, answer.head, { state: answer.state, final: answer.final });
    shape();
  } catch (error) { by("state").textContent = "the watch has ended (no answer from the server)"; }
  setTimeout(poll, 300);
}

shape();
if (!embedded) poll();

"use strict";
// The page's data are plain JSON in an element of their own; the maps in it are deflated bytes in base64.
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const frames = $("frames"), big = $("big"), arrows = $("arrows");
  const colors = Uint8Array.from(atob(data.colors), (c) => c.charCodeAt(0)); // 256 x RGB

  async function bytes(text) {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }
  const opened = new Map();
  async function open(block) {
    if (!opened.has(block.name)) {
      const names = ["rows", "low", "high", "links", "values"];
      const [rows, low, high, links, values] = await Promise.all(names.map((name) => bytes(block[name])));
      opened.set(block.name, {
        rows: new Uint8Array(rows), low: new Float32Array(low), high: new Float32Array(high),
        links: new Int32Array(links), values: new Float32Array(values),
      });
    }
    return opened.get(block.name);
  }

  // ---- state, which the fragment of the address holds

  const state = { block: data.blocks.length - 1, t: 0, h: 0, w: 0, links: 5, opacity: 0.6, shown: 0, pinned: false };
  let maps, block, playing = null;

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    const number = (name, least, most, otherwise) => {
      const value = Number(given.get(name));
      return given.has(name) && Number.isFinite(value) ? Math.min(Math.max(value, least), most) : otherwise;
    };
    const named = data.blocks.findIndex((each) => each.name === given.get("block"));
    state.block = named >= 0 ? named : state.block;
    const [T, H, W] = data.blocks[state.block].size;
    state.t = Math.round(number("t", 0, T - 1, Math.floor(T / 2)));
    state.h = Math.round(number("h", 0, H - 1, Math.floor(H / 2)));
    state.w = Math.round(number("w", 0, W - 1, Math.floor(W / 2)));
    state.links = Math.round(number("links", 0, data.blocks[state.block].kept, state.links));
    state.opacity = number("opacity", 0, 1, state.opacity);
    state.shown = Math.round(number("frame", 0, T - 1, state.t));
    state.pinned = given.get("pinned") === "1";
  }
  function toAddress() {
    const now = { block: block.name, t: state.t, h: state.h, w: state.w, links: state.links, opacity: state.opacity,
      frame: state.shown, ...(state.pinned ? { pinned: 1 } : {}) };
    history.replaceState(null, "", "#" + new URLSearchParams(now));
  }

  // ---- places: stored positions, and the keys of one

  const stored = (axis, at) =>
    Math.min(Math.round(at / block.step[axis]), Math.ceil(block.size[axis] / block.step[axis]) - 1);
  function chosen() {
    const [t, h, w] = [stored(0, state.t), stored(1, state.h), stored(2, state.w)];
    const [rows, columns] = [1, 2].map((axis) => Math.ceil(block.size[axis] / block.step[axis]));
    return { number: (t * rows + h) * columns + w, t: t * block.step[0], h: h * block.step[1], w: w * block.step[2] };
  }
  function keyPlace(key, at) { // the tile of a key, its row and column, and of how many
    const [kt, kh, kw] = block.keys;
    if (block.meets === "location") return { tile: key, h: at.h, w: at.w, H: block.size[1], W: block.size[2] };
    const first = block.meets === "all" ? 0 : Math.floor(at.t / kt) * kt;
    const rest = key % (kh * kw);
    return { tile: first + Math.floor(key / (kh * kw)), h: Math.floor(rest / kw), w: rest % kw, H: kh, W: kw };
  }
  function keyAt(tile, y, x, at) { // the key under a point of a tile, or -1
    const [kt, kh, kw] = block.keys;
    if (block.meets === "location") {
      const [, H, W] = block.size;
      return Math.floor(y * H) === at.h && Math.floor(x * W) === at.w ? tile : -1;
    }
    const frame = tile - (block.meets === "all" ? 0 : Math.floor(at.t / kt) * kt);
    if (frame < 0 || frame >= kt) return -1;
    return (frame * kh + Math.min(Math.floor(y * kh), kh - 1)) * kw + Math.min(Math.floor(x * kw), kw - 1);
  }
  const value = (number, key) => {
    const count = block.keys[0] * block.keys[1] * block.keys[2];
    return maps.low[number] + (maps.high[number] - maps.low[number]) * maps.rows[number * count + key] / 255;
  };
  const shownNumber = (v) => Math.abs(v) >= 0.001 && Math.abs(v) < 1000 ? v.toPrecision(3) : v.toExponential(2);
  const second = (tile) => {
    const s = data.seconds[data.tiles[block.size[0]][tile]];
    return Number.isInteger(s) && data.counted ? "" : ` (${s.toFixed(2)} s)`;
  };

  // ---- drawing

  function tile(number) {
    const made = document.createElement("div");
    const [image, canvas, label, mark] = ["img", "canvas", "b", "i"].map((name) => document.createElement(name));
    made.className = data.fine ? "tile fine" : "tile";
    image.alt = "";
    mark.hidden = true;
    made.append(image, canvas, label, mark);
    fill(made, number);
    return made;
  }
  function fill(made, number) {
    made.dataset.tile = number;
    made.querySelector("img").src = data.images[data.tiles[block.size[0]][number]];
    made.querySelector("b").textContent = `${number}${second(number)}`;
  }
  function paint(made, at) {
    const canvas = made.querySelector("canvas"), number = Number(made.dataset.tile);
    const location_ = block.meets === "location";
    const [H, W] = location_ ? [block.size[1], block.size[2]] : [block.keys[1], block.keys[2]];
    canvas.height = H; canvas.width = W; // clears it
    const context = canvas.getContext("2d"), count = block.keys[0] * block.keys[1] * block.keys[2];
    const set = (pixels, place, byte) => pixels.data.set([...colors.subarray(3 * byte, 3 * byte + 3), 255], 4 * place);
    if (location_) {
      const pixel = context.createImageData(1, 1);
      set(pixel, 0, maps.rows[at.number * count + number]);
      context.putImageData(pixel, at.w, at.h);
    } else {
      const first = keyAt(number, 0, 0, at);
      if (first >= 0) {
        const pixels = context.createImageData(W, H);
        for (let k = 0; k < H * W; k++) set(pixels, k, maps.rows[at.number * count + first + k]);
        context.putImageData(pixels, 0, 0);
      }
    }
    const mark = made.querySelector("i");
    mark.hidden = number !== at.t;
    const [, rows, columns] = block.size;
    Object.assign(mark.style, { top: `${100 * at.h / rows}%`, left: `${100 * at.w / columns}%`,
      height: `${100 / rows}%`, width: `${100 / columns}%` });
  }
  function link(at) {
    const svg = "http://www.w3.org/2000/svg", box = arrows.getBoundingClientRect(), tiles = frames.querySelectorAll(".tile");
    const point = (number, y, x) => {
      const place = tiles[number].getBoundingClientRect();
      return [place.left - box.left + x * place.width, place.top - box.top + y * place.height];
    };
    const [x1, y1] = point(at.t, (at.h + 0.5) / block.size[1], (at.w + 0.5) / block.size[2]);
    const most = Math.abs(maps.values[at.number * block.kept]) || 1;
    const lines = [];
    for (let k = 0; k < Math.min(state.links, block.kept); k++) {
      const key = maps.links[at.number * block.kept + k], strength = maps.values[at.number * block.kept + k];
      const to = keyPlace(key, at), [x2, y2] = point(to.tile, (to.h + 0.5) / to.H, (to.w + 0.5) / to.W);
      const share = Math.abs(strength) / most;
      const line = document.createElementNS(svg, "line");
      for (const [name, v] of Object.entries({ x1, y1, x2, y2 })) line.setAttribute(name, v.toFixed(1));
      line.setAttribute("stroke-width", (1 + 2.5 * share).toFixed(2));
      line.setAttribute("opacity", (0.35 + 0.65 * share).toFixed(2));
      Object.assign(line.dataset, { key, value: strength });
      line.setAttribute("marker-end", "url(#head)");
      lines.push(line);
    }
    $("lines").replaceChildren(...lines);
  }
  function say(at, key) {
    const count = block.keys[0] * block.keys[1] * block.keys[2];
    const best = maps.links[at.number * block.kept], to = keyPlace(best, at), strength = maps.values[at.number * block.kept];
    const stretch = block.step.some((s) => s > 1) ? " (the nearest that is stored)" : "";
    $("from").textContent =
      `Position${stretch}: frame ${at.t}${second(at.t)}, row ${at.h}, column ${at.w} of ${block.size[1]} x ${block.size[2]}`;
    $("to").textContent = `Strongest link: frame ${to.tile}${second(to.tile)}, row ${to.h}, column ${to.w} of ${to.H} x ${to.W}: `
      + `${shownNumber(strength)}, ${(strength * count).toFixed(1)} times 1/${count}`;
    $("here").textContent = key >= 0 ? `Under the pointer: ${shownNumber(value(at.number, key))}` : "";
    const ends = [maps.low[at.number], maps.high[at.number]], short = ends.map(shownNumber);
    const shown = short[0] === short[1] ? ends.map((v) => v.toPrecision(6)) : short;
    [$("low").textContent, $("high").textContent] = shown;
  }
  let pointer = null;
  function draw() {
    const at = chosen();
    for (const each of frames.querySelectorAll(".tile")) {
      paint(each, at);
      each.classList.toggle("shown", Number(each.dataset.tile) === state.shown);
    }
    fill(big.firstChild, state.shown);
    paint(big.firstChild, at);
    link(at);
    say(at, pointer ? keyAt(pointer.tile, pointer.y, pointer.x, at) : -1);
    document.body.style.setProperty("--opacity", state.opacity);
    $("play").textContent = playing ? "Pause" : "Play";
    $("pin").textContent = state.pinned ? "Follow the pointer" : "Hold the position";
    toAddress();
  }
  async function show() {
    const next = data.blocks[state.block];
    maps = await open(next);
    block = next;
    const T = block.size[0];
    for (const [name, most] of [["t", T], ["h", block.size[1]], ["w", block.size[2]], ["shown", T]])
      state[name] = Math.min(state[name], most - 1);
    for (const old of frames.querySelectorAll(".tile")) old.remove();
    frames.prepend(...Array.from({ length: T }, (_, number) => tile(number)));
    big.replaceChildren(tile(state.shown));
    Object.assign($("links"), { max: block.kept, value: state.links });
    $("opacity").value = state.opacity;
    $("block").value = state.block;
    const keys = { all: "all positions", frame: "those of its frame", location: "those of its place in all frames",
      group: `those of ${block.keys[0]} frames` }[block.meets];
    $("about").textContent = `${block.pairwise.replace("_", " ")}, a map of ${block.size.join(" x ")}; `
      + `a position meets ${keys}, ${block.keys.join(" x ")} keys`;
    draw();
  }

  const scale = $("scale").getContext("2d"), bar = scale.createImageData(256, 1);
  for (let k = 0; k < 256; k++) bar.data.set([...colors.subarray(3 * k, 3 * k + 3), 255], 4 * k);
  scale.putImageData(bar, 0, 0);
  fromAddress();
  await show();

  // ---- what a person does, from here on

  function toPosition(event) {
    const made = event.target.closest(".tile");
    if (!made) return null;
    const box = made.getBoundingClientRect();
    const inside = (v) => Math.min(Math.max(v, 0), 0.999999);
    return { tile: Number(made.dataset.tile), y: inside((event.clientY - box.top) / box.height),
      x: inside((event.clientX - box.left) / box.width) };
  }
  function choose(place) {
    Object.assign(state, { t: place.tile, h: Math.floor(place.y * block.size[1]), w: Math.floor(place.x * block.size[2]) });
  }
  for (const area of [frames, big]) {
    area.addEventListener("pointermove", (event) => {
      pointer = toPosition(event);
      if (!pointer) return;
      if (!state.pinned && event.pointerType !== "touch") choose(pointer);
      draw();
    });
    area.addEventListener("click", (event) => {
      const place = toPosition(event);
      if (!place) return;
      pointer = place;
      const touched = event.pointerType === "touch";
      if (!touched) state.pinned = !state.pinned;
      if (touched || state.pinned) choose(place);
      draw();
    });
  }
  frames.addEventListener("pointerleave", () => { pointer = null; draw(); });
  function turn(on) {
    clearInterval(playing);
    playing = on ? setInterval(() => { state.shown = (state.shown + 1) % block.size[0]; draw(); }, data.interval) : null;
    draw();
  }
  const keys = {
    ArrowLeft: () => (state.w -= block.step[2]), ArrowRight: () => (state.w += block.step[2]),
    ArrowUp: () => (state.h -= block.step[1]), ArrowDown: () => (state.h += block.step[1]),
    PageUp: () => (state.t -= block.step[0]), PageDown: () => (state.t += block.step[0]),
    ",": () => (state.shown = Math.max(state.shown - 1, 0)), ".": () => (state.shown += 1),
    " ": () => turn(!playing), Enter: () => (state.pinned = !state.pinned),
  };
  frames.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    pointer = null;
    keys[event.key]();
    for (const [name, axis] of [["t", 0], ["h", 1], ["w", 2], ["shown", 0]])
      state[name] = Math.min(Math.max(state[name], 0), block.size[axis] - 1);
    if (event.key.startsWith("Page")) state.shown = state.t;
    draw();
  });
  $("block").addEventListener("change", (event) => {
    const [T, H, W] = block.size;
    state.block = Number(event.target.value);
    const next = data.blocks[state.block].size; // the same place in the clip
    state.t = Math.floor((state.t + 0.5) / T * next[0]);
    state.h = Math.floor((state.h + 0.5) / H * next[1]);
    state.w = Math.floor((state.w + 0.5) / W * next[2]);
    state.shown = Math.floor((state.shown + 0.5) / T * next[0]);
    show();
  });
  $("links").addEventListener("input", (event) => { state.links = Number(event.target.value); draw(); });
  $("opacity").addEventListener("input", (event) => { state.opacity = Number(event.target.value); draw(); });
  $("play").addEventListener("click", () => turn(!playing));
  $("pin").addEventListener("click", () => { state.pinned = !state.pinned; draw(); });
  addEventListener("resize", draw);
  addEventListener("hashchange", () => { fromAddress(); show(); });

  document.documentElement.dataset.ready = "yes";
})();

"use strict";
// Class maps are PNGs of two pictures, one above the other. Above: class at date 1, class at date 2,
// state. Below: true from-to code or probability in two bytes (65535 = not known).
const CHANGED = 1, NO_DATA = 2, NO_VALUE = 65535, PROBABILITY_STEPS = 250;
const HATCH = [140, 140, 140];
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const numClasses = data.classes.length;
const oneDate = data.task === "land_cover", binary = data.task === "binary_change";

function rgbOf(name) {
  const hex = getComputedStyle(root).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function palette() {
  const colours = data.classes.map((_, i) => rgbOf(`--c${i + 1}`));
  return {
    classes: [null, ...colours],
    hit: rgbOf("--hit"), missed: rgbOf("--missed"), alarm: rgbOf("--alarm"), confused: rgbOf("--confused"),
  };
}

async function decode(tile) {
  if (tile.pixels) return tile.pixels;
  const text = atob(tile.map.split(",")[1]);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), options);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [tile.width, 2 * tile.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  tile.pixels = context.getImageData(0, 0, tile.width, 2 * tile.height).data;
  return tile.pixels;
}

function pixelAt(tile, x, y) {
  const i = 4 * (y * tile.width + x), below = i + 4 * tile.width * tile.height, bytes = tile.pixels;
  if (bytes[i + 2] === NO_DATA) return null;
  const found = { from: bytes[i], to: bytes[i + 1], changed: bytes[i + 2] === CHANGED };
  const value = 256 * bytes[below] + bytes[below + 1];
  if (tile.third === "truth" && value !== NO_VALUE) found.truth = value;
  if (tile.third === "probability" && value !== NO_VALUE) found.probability = value / PROBABILITY_STEPS;
  return found;
}

function truthOf(code) {
  if (code === 0) return { from: 0, to: 0 };
  if (binary || oneDate) return { from: code, to: code };
  return { from: Math.floor((code - 1) / numClasses) + 1, to: ((code - 1) % numClasses) + 1 };
}

function inWords(from, to, changed) {
  const name = (k) => data.classes[k - 1];
  if (oneDate) return from ? name(from) : "not known";
  if (binary) return changed ? "changed" : "unchanged";
  if (changed) return from === to ? `within ${name(from)}` : `${name(from)} → ${name(to)}`;
  return from ? `${name(from)}, unchanged` : "unchanged";
}

function labelInWords(from, to) {
  if (!from || !to) return "not labelled";
  return from === to ? data.classes[from - 1] : inWords(from, to, true);
}

function describe(pixel, pseudo) {
  if (!pixel) return "no data";
  if (pseudo) return labelInWords(pixel.from, pixel.to);
  let text = inWords(pixel.from, pixel.to, pixel.changed);
  if (pixel.truth !== undefined) {
    const truth = truthOf(pixel.truth);
    text += `\ntruth: ${inWords(truth.from, truth.to, truth.from > 0)}`;
  }
  if (pixel.probability !== undefined) {
    text += `\nprobability${oneDate ? "" : " of change"} ${Math.round(100 * pixel.probability)} %`;
  }
  return text;
}

function colourOf(pixel, mode, side, colours) {
  const own = side === 0 ? pixel.from : pixel.to;
  if (mode === "errors") return verdict(pixel, colours);
  if (oneDate) return side === 0 ? null : colours.classes[own];
  if (mode === "everywhere") return colours.classes[own];
  if (!pixel.changed) return null;
  return mode === "change" || binary ? colours.alarm : colours.classes[own];
}

function verdict(pixel, colours) {
  if (pixel.truth === undefined) return null;
  const truth = truthOf(pixel.truth);
  if (!pixel.changed) return truth.from ? colours.missed : null;
  if (!truth.from) return colours.alarm;
  return truth.from === pixel.from && truth.to === pixel.to ? colours.hit : colours.confused;
}

function paint(canvas, tile, mode, side) {
  [canvas.width, canvas.height] = [tile.width, tile.height];
  const context = canvas.getContext("2d"), image = context.createImageData(tile.width, tile.height);
  const colours = palette(), out = image.data, gap = Math.max(4, Math.round(tile.width / 100));
  for (let y = 0, i = 0; y < tile.height; y++) {
    for (let x = 0; x < tile.width; x++, i += 4) {
      const pixel = pixelAt(tile, x, y), hatch = (x + y) % gap === 0 && HATCH;
      const colour = pixel ? colourOf(pixel, mode, side, colours) : hatch;
      if (!colour) continue;
      [out[i], out[i + 1], out[i + 2], out[i + 3]] = [...colour, 255];
    }
  }
  context.putImageData(image, 0, 0);
}

class Viewer {
  constructor(element) {
    this.find = (selector) => element.querySelector(selector);
    this.tiles = data.sections[Number(element.dataset.section)];
    this.pseudo = data.pseudo[Number(element.dataset.section)];
    this.stage = this.find(".stage");
    this.divider = this.find(".divider");
    this.split = 50;
    this.cross = [0.5, 0.5];
    this.listen();
    this.fillGallery();
    this.show(0);
    new ResizeObserver(() => this.fit()).observe(element);
  }

  async show(number) {
    const tile = (this.tile = this.tiles[number]);
    const [before, after] = this.stage.querySelectorAll("img");
    const dates = [tile.before, tile.after || tile.before];
    [before, after].forEach((img, i) => (dates[i] ? (img.src = dates[i]) : img.removeAttribute("src")));
    this.stage.style.setProperty("--ratio", `${tile.width} / ${tile.height}`);
    this.fit();
    const share = tile.score === null ? "" : ` · ${(100 * tile.score).toFixed(1)} %`;
    this.find(".tile").textContent = tile.name + share;
    this.buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(i === number)));
    await decode(tile);
    if (tile === this.tile) this.draw();
  }

  fit() {
    if (!this.tile) return;
    const { width, height } = this.tile;
    const room = this.stage.parentElement.clientWidth, tall = Math.max(260, 0.78 * window.innerHeight);
    const shown = Math.min(room, (tall * width) / height, Math.max(640, width));
    this.stage.style.width = `${shown}px`;
    this.stage.style.height = `${(shown * height) / width}px`;
    this.stage.classList.toggle("crisp", shown > 1.5 * width);
  }

  draw() {
    const mode = this.find(".mode").value;
    if (this.tile.pixels) {
      this.stage.querySelectorAll("canvas").forEach((c, side) => paint(c, this.tile, mode, side));
    }
    this.find(".errors").hidden = mode !== "errors";
    const on = this.find(".show").checked;
    this.stage.style.setProperty("--opacity", on ? this.find(".opacity").value / 100 : 0);
  }

  moveTo(percent) {
    this.split = Math.min(100, Math.max(0, percent));
    this.stage.style.setProperty("--split", `${this.split}%`);
    this.divider.setAttribute("aria-valuenow", String(Math.round(this.split)));
    this.divider.setAttribute("aria-valuetext", `${Math.round(this.split)} %`);
  }

  read(fx, fy, spoken) {
    const { tile } = this;
    if (!tile.pixels) return;
    const x = Math.min(tile.width - 1, Math.max(0, Math.floor(fx * tile.width)));
    const y = Math.min(tile.height - 1, Math.max(0, Math.floor(fy * tile.height)));
    const text = describe(pixelAt(tile, x, y), this.pseudo), hint = this.find(".hint");
    hint.textContent = text;
    hint.hidden = false;
    const box = this.stage.getBoundingClientRect();
    const left = fx * box.width + 16, top = fy * box.height + 16;
    const turned = left + hint.offsetWidth > box.width;
    hint.style.left = `${Math.max(4, turned ? left - hint.offsetWidth - 32 : left)}px`;
    hint.style.top = `${Math.min(top, box.height - hint.offsetHeight - 4)}px`;
    if (spoken) this.find(".under").textContent = text.replace("\n", "; ");
  }

  listen() {
    const { stage, divider } = this;
    const share = (event) => {
      const box = stage.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    let start = null;
    stage.addEventListener("pointerdown", (event) => {
      start = { x: event.clientX, drags: event.target.closest(".divider") !== null };
    });
    stage.addEventListener("pointermove", (event) => {
      const [fx, fy] = share(event);
      if (start && event.buttons && (start.drags || Math.abs(event.clientX - start.x) > 6)) {
        if (!start.drags) start.drags = true;
        stage.setPointerCapture(event.pointerId);
        this.moveTo(100 * fx);
      }
      if (fx >= 0 && fx <= 1 && fy >= 0 && fy <= 1) this.read(fx, fy, false);
    });
    stage.addEventListener("pointerup", (event) => {
      if (start && !start.drags) this.read(...share(event), true);
      start = null;
    });
    stage.addEventListener("pointercancel", () => (start = null));
    stage.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.find(".hint").hidden = true;
    });
    divider.addEventListener("keydown", (event) => this.keyOnDivider(event));
    stage.addEventListener("keydown", (event) => {
      if (event.target === stage) this.keyOnStage(event);
    });
    stage.addEventListener("blur", () => {
      this.find(".cross").hidden = this.find(".hint").hidden = true;
    });
    for (const control of [".show", ".mode", ".opacity"]) {
      this.find(control).addEventListener("input", () => this.draw());
    }
  }

  keyOnDivider(event) {
    const far = event.shiftKey ? 10 : 2;
    const to = {
      ArrowLeft: this.split - far, ArrowDown: this.split - far, ArrowRight: this.split + far, ArrowUp: this.split + far,
      PageDown: this.split - 10, PageUp: this.split + 10, Home: 0, End: 100,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.moveTo(to);
  }

  keyOnStage(event) {
    const far = event.shiftKey ? 0.1 : 0.02;
    const by = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[event.key];
    if (!by) return;
    event.preventDefault();
    this.cross = this.cross.map((value, i) => Math.min(0.999, Math.max(0, value + by[i])));
    const cross = this.find(".cross");
    cross.hidden = false;
    cross.style.left = `${100 * this.cross[0]}%`;
    cross.style.top = `${100 * this.cross[1]}%`;
    this.read(...this.cross, true);
  }

  fillGallery() {
    this.buttons = [];
    const list = this.find(".gallery");
    if (!list) return;
    this.tiles.forEach((tile, number) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const thumb = document.createElement("span"), name = document.createElement("b"), note = document.createElement("i");
      button.type = "button";
      thumb.className = "thumb";
      this.fillThumb(thumb, tile);
      name.textContent = tile.name;
      note.textContent = tile.score === null ? "" : `${tile.verdict} ${(100 * tile.score).toFixed(1)} %`;
      button.append(thumb, name, note);
      button.addEventListener("click", () => this.show(number));
      item.append(button);
      list.append(item);
      this.buttons.push(button);
    });
  }

  fillThumb(thumb, tile) {
    const picture = tile.after || tile.before;
    if (picture) {
      const img = document.createElement("img");
      [img.src, img.alt] = [picture, ""];
      thumb.append(img);
      return;
    }
    const canvas = document.createElement("canvas");
    thumb.append(canvas);
    decode(tile).then(() => paint(canvas, tile, binary ? "change" : "classes", 1));
  }
}

const viewers = [...document.querySelectorAll(".viewer")].map((element) => new Viewer(element));
document.getElementById("palette").addEventListener("change", (event) => {
  root.dataset.palette = event.target.value;
  viewers.forEach((viewer) => viewer.draw());
});
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));

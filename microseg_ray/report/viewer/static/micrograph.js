// One micrograph: deep zoom, layers, classes, scale bar, seams, objects, keys.
import { ask, element, show } from "./server.js";
import { hashOf, lengthText, parseHash, roundLength } from "./place.js";
import { Loop } from "./loop.js";
import { Paint } from "./paint.js";

const TITLES = { image: "Micrograph", mask: "Mask", learnt: "Mask after learning", change: "Changed by learning", margin: "Uncertain (margin)", entropy: "Uncertain (entropy)", truth: "Truth", difference: "Difference from truth" };
const START = { image: 1, mask: 0.45, learnt: 0.45, change: 0, margin: 0, entropy: 0, truth: 0, difference: 0 };
let open = null;

// OpenSeadragon draws each tile one pixel wider, against gaps between tiles: at 1:1 the pixels of the screen would not be those
// of the micrograph. Edges on whole pixels leave no gap, and pixels stay what they are.
const place = OpenSeadragon.TiledImage.prototype._positionTile;
OpenSeadragon.TiledImage.prototype._positionTile = function snapped(tile, ...rest) {
  place.call(this, tile, ...rest);
  const { position: at, size } = tile;
  const [x0, y0] = [Math.round(at.x), Math.round(at.y)];
  tile.position = new OpenSeadragon.Point(x0, y0);
  tile.size = new OpenSeadragon.Point(Math.round(at.x + size.x) - x0, Math.round(at.y + size.y) - y0);
};

export function closeMicrograph() {
  if (!open) return;
  open.close();
  open = null;
}

export async function openMicrograph(subject, key, values) {
  if (open && open.key === key) {
    open.goTo(values);
    return;
  }
  closeMicrograph();
  const order = { sort: values.sort || (subject.run ? "outlier" : "name"), order: values.order || (subject.run ? "down" : "up") };
  document.getElementById("back").href = hashOf("list", "", order);
  const info = await ask(`api/micrograph/${key}?${new URLSearchParams(order)}`);
  open = new Micrograph(subject, key, info, order, values);
  window.microseg = open;
}

class Micrograph {
  constructor(subject, key, info, order, values) {
    Object.assign(this, { subject, key, info, order });
    this.hidden = new Set();
    // The newest mask is shown first; the one of the run is a key away.
    this.first = info.layers.includes("learnt") ? { ...START, mask: 0 } : START;
    this.items = {};
    this.seams = null;
    this.object = null;
    this.failed = false;
    [this.height, this.width] = info.shape;
    this.canvas = document.getElementById("overlay");
    this.viewer = OpenSeadragon({
      element: document.getElementById("zoom"),
      drawer: "canvas",
      showNavigationControl: false,
      imageSmoothingEnabled: false,
      animationTime: 0.25,
      springStiffness: 10,
      minZoomImageRatio: 0.7,
      maxZoomPixelRatio: 32,
      visibilityRatio: 0.2,
      zoomPerScroll: 1.3,
      maxImageCacheCount: 400,
      imageLoaderLimit: 6,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsPen: { clickToZoom: false },
      tileRetryMax: 0,
    });
    this.paint = new Paint(this);
    this.loop = new Loop(this);
    this.viewer.drawer.minimumOverlapRequired = () => false;
    this.facts();
    this.layerControls();
    this.legend();
    this.events = new AbortController();
    this.bind();
    this.addLayers(values);
    this.poll();
    this.paint.start().catch((error) => show(error.message));
    this.loop.start().catch((error) => show(error.message));
  }

  close() {
    this.closed = true;
    this.events.abort();
    this.paint.close();
    this.loop.close();
    this.viewer.destroy();
    document.getElementById("object").replaceChildren();
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    document.getElementById("zoom").append(this.canvas, document.getElementById("bar"), document.getElementById("making"));
  }

  // Layers

  source(layer) {
    const levels = Math.max(0, Math.ceil(Math.log2(Math.max(this.width, this.height) / this.info.tile)));
    const address = (level, x, y) => {
      const hide = layer === "mask" || layer === "learnt" || layer === "truth" ? `&hide=${[...this.hidden].join(",")}` : "";
      return `tile/${layer}/${this.key}/${levels - level}/${x}/${y}?v=${this.info.state}${this.version || ""}${hide}`;
    };
    return { width: this.width, height: this.height, tileSize: this.info.tile, tileOverlap: 0, minLevel: 0, maxLevel: levels, getTileUrl: address };
  }

  addLayer(layer, opacity, done = () => {}) {
    this.viewer.addTiledImage({
      tileSource: this.source(layer), x: 0, y: 0, width: 1, opacity, preload: false,
      success: ({ item }) => { item.layer = layer; done(item); },
      error: ({ message }) => show(message),
    });
  }

  addLayers(values) {
    let waiting = this.info.layers.length;
    for (const layer of this.info.layers) {
      this.addLayer(layer, this.first[layer], (item) => {
        this.items[layer] = item;
        waiting -= 1;
        if (!waiting) {
          this.arrange();
          this.goTo(values);
        }
      });
    }
  }

  arrange() {
    this.info.layers.forEach((layer, place) => this.viewer.world.setItemIndex(this.items[layer], place));
  }

  reload(layer) {
    const older = this.items[layer];
    if (!older) return;
    this.addLayer(layer, older.getOpacity(), (item) => {
      this.items[layer] = item;
      const drop = () => { if (!this.closed && this.viewer.world.getIndexOfItem(older) >= 0) this.viewer.world.removeItem(older); this.arrange(); };
      if (item.getFullyLoaded() || older.getOpacity() === 0) drop();
      else item.addOnceHandler("fully-loaded-change", drop);
    });
  }

  setOpacity(layer, opacity) {
    if (this.items[layer]) this.items[layer].setOpacity(opacity);
    const slider = document.querySelector(`#layers input[data-layer=${layer}]`);
    if (slider) slider.value = opacity;
  }

  toggleLayer(layer) {
    if (!this.items[layer]) return;
    const on = this.items[layer].getOpacity() > 0;
    this.before = this.before || {};
    if (on) this.before[layer] = this.items[layer].getOpacity();
    this.setOpacity(layer, on ? 0 : this.before[layer] || START[layer] || 0.6);
  }

  // The mask before learning in place of the one after it, and back.
  beforeAfter() {
    if (!this.items.learnt || !this.items.mask) return;
    const [mask, learnt] = ["mask", "learnt"].map((layer) => this.items[layer].getOpacity());
    const shown = Math.max(mask, learnt) || START.mask;
    this.setOpacity("mask", learnt > 0 ? shown : 0);
    this.setOpacity("learnt", learnt > 0 ? 0 : shown);
  }

  // The same place with the layers that are there by now.
  async reopen() {
    const { values } = parseHash(location.hash);
    closeMicrograph();
    await openMicrograph(this.subject, this.key, values);
  }

  layerControls() {
    const lines = this.info.layers.map((layer) => element("label", {}, TITLES[layer], element("input", { type: "range", min: 0, max: 1, step: 0.05, value: this.first[layer], "data-layer": layer, oninput: (event) => this.setOpacity(layer, Number(event.target.value)) })));
    const seams = this.info.layers.includes("mask") ? [element("label", {}, element("input", { type: "checkbox", id: "seams", onchange: () => this.toggleSeams() }), "Seams of tiles and shards")] : [];
    document.getElementById("layers").replaceChildren(element("legend", {}, "Layers"), ...lines, ...seams);
  }

  legend() {
    const lines = this.subject.classes.map((each, index) => {
      const share = this.info.fractions[index];
      const change = (event) => {
        if (event.target.checked) this.hidden.delete(index);
        else this.hidden.add(index);
        this.reload("mask");
        this.reload("learnt");
        this.reload("truth");
      };
      return element("label", {}, element("input", { type: "checkbox", checked: true, "data-class": index, onchange: change }), element("span", { class: "swatch", style: `background:${each.color}` }), each.name, element("output", {}, share === null || share === undefined ? "" : `${(100 * share).toFixed(2)} %`));
    });
    const box = document.getElementById("legend");
    box.hidden = !lines.length;
    box.replaceChildren(element("legend", {}, "Classes"), ...lines);
  }

  facts() {
    const { info } = this;
    document.title = `${info.name} – microseg`;
    document.getElementById("name").textContent = info.name;
    document.getElementById("place").textContent = info.place ? `${info.place} of ${info.of}` : "";
    const size = info.pixel_size_um ? `${Number(info.pixel_size_um[1].toPrecision(5))} µm per pixel (${info.pixel_size_source})` : "no pixel size";
    document.getElementById("facts").textContent = `${this.width} × ${this.height} px, ${size}`;
    const half = info.layers.includes("mask") && !info.finished ? ["The mask is not finished: what is not computed yet is transparent."] : [];
    const gone = info.missing ? ["The file is not there any more."] : [];
    document.getElementById("problems").textContent = [...half, ...gone, ...info.problems].join(" ");
    for (const way of ["previous", "next"]) document.getElementById(way).disabled = !info[way];
  }

  // Places

  get zoom() {
    return (this.viewer.viewport.getZoom(true) * this.viewer.viewport.getContainerSize().x) / this.width;
  }

  toImage(x, y) {
    const point = this.viewer.viewport.pointFromPixel(new OpenSeadragon.Point(x, y), true);
    return [point.y * this.width, point.x * this.width];
  }

  toScreen(y, x) {
    const point = this.viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(x / this.width, y / this.width), true);
    return [point.x, point.y];
  }

  goTo(values) {
    const viewport = this.viewer.viewport;
    if (values.y === undefined || values.x === undefined) viewport.fitBounds(new OpenSeadragon.Rect(0, 0, 1, this.height / this.width), true);
    else {
      viewport.zoomTo((Number(values.z || 1) * this.width) / viewport.getContainerSize().x, null, true);
      viewport.panTo(new OpenSeadragon.Point(Number(values.x) / this.width, Number(values.y) / this.width), true);
    }
    this.draw();
  }

  remember() {
    const centre = this.viewer.viewport.getCenter(true);
    const values = { ...this.order, y: (centre.y * this.width).toFixed(1), x: (centre.x * this.width).toFixed(1), z: Number(this.zoom.toPrecision(4)) };
    history.replaceState(null, "", hashOf("micrograph", this.key, values));
    document.getElementById("position").textContent = `${(100 * this.zoom).toPrecision(3)} %`;
  }

  move(way) {
    if (this.info[way]) location.hash = hashOf("micrograph", this.info[way], this.order);
  }

  // Events

  bind() {
    const { signal } = this.events;
    this.viewer.addHandler("update-viewport", () => this.draw());
    this.viewer.addHandler("animation-finish", () => this.remember());
    this.viewer.addHandler("tile-load-failed", () => { this.failed = true; });
    this.viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
    const click = (id, action) => document.getElementById(id).addEventListener("click", action, { signal });
    click("whole", () => this.goTo({}));
    click("exact", () => this.exact());
    click("previous", () => this.move("previous"));
    click("next", () => this.move("next"));
    window.addEventListener("keydown", (event) => this.onKey(event), { signal });
    const zoom = document.getElementById("zoom");
    zoom.addEventListener("mousemove", (event) => this.hover(event), { signal });
    window.addEventListener("resize", () => this.draw(), { signal });
  }

  exact() {
    const viewport = this.viewer.viewport;
    viewport.zoomTo(this.width / viewport.getContainerSize().x, null, true);
    // Whole pixels: half of one would blur the image, or drop a row of it.
    const [y, x] = this.toImage(0, 0);
    viewport.panBy(new OpenSeadragon.Point((Math.round(x) - x) / this.width, (Math.round(y) - y) / this.width), true);
    this.remember();
  }

  onKey(event) {
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range" && event.target.type !== "checkbox") return;
    if (this.paint.onKey(event) || this.loop.onKey(event)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = { n: () => this.move("next"), p: () => this.move("previous"), 0: () => this.goTo({}), 1: () => this.exact(), m: () => this.toggleLayer("mask"), t: () => this.toggleLayer("truth"), d: () => this.toggleLayer("difference"), a: () => this.beforeAfter(), c: () => this.toggleLayer("change"), u: () => this.toggleLayer(this.info.layers.includes("margin") ? "margin" : "entropy"), s: () => document.getElementById("seams")?.click(), Escape: () => { location.hash = document.getElementById("back").getAttribute("href"); } };
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  }

  hover(event) {
    if (!this.info.objects || this.paint.active || event.buttons) return;
    clearTimeout(this.hovering);
    const box = document.getElementById("zoom").getBoundingClientRect();
    const [y, x] = this.toImage(event.clientX - box.x, event.clientY - box.y).map(Math.floor);
    this.hovering = setTimeout(async () => {
      if (y < 0 || x < 0 || y >= this.height || x >= this.width) return;
      try {
        this.object = await ask(`api/micrograph/${this.key}/object?y=${y}&x=${x}`);
      } catch (error) {
        show(error.message);
        return;
      }
      if (this.closed) return;
      const rows = Object.entries(this.object || {}).map(([name, value]) => element("tr", {}, element("td", {}, name), element("td", {}, typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value))));
      document.getElementById("object").replaceChildren(...rows);
      this.draw();
    }, 120);
  }

  async toggleSeams() {
    const on = document.getElementById("seams").checked;
    if (on && !this.seamLines) this.seamLines = await ask(`api/micrograph/${this.key}/seams`);
    this.seams = on ? this.seamLines : null;
    if (on && this.seams.note) show(this.seams.note);
    this.draw();
  }

  // The overview of a huge micrograph is made once; until then its coarse tiles are refused.
  async poll() {
    const making = document.getElementById("making");
    let last = -1;
    while (!this.closed) {
      const found = await ask(`api/micrograph/${this.key}/progress`).catch(() => ({ share: 1, error: "" }));
      if (this.closed) return;
      making.textContent = found.error ? `The overview cannot be made: ${found.error}` : found.share < 1 ? `Making the overview: ${Math.round(100 * found.share)} %` : "";
      if (this.failed && found.share > last) {
        this.failed = false;
        for (const item of Object.values(this.items)) item.reset();
        this.viewer.forceRedraw();
      }
      last = found.share < 1 ? found.share : last;
      if (found.share === 1 || found.error) return;
      await new Promise((done) => { setTimeout(done, 1000); });
    }
  }

  // What lies above the tiles

  draw() {
    const canvas = this.canvas, ratio = window.devicePixelRatio || 1;
    const size = this.viewer.viewport.getContainerSize();
    if (canvas.width !== Math.round(size.x * ratio) || canvas.height !== Math.round(size.y * ratio)) {
      canvas.width = Math.round(size.x * ratio);
      canvas.height = Math.round(size.y * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, size.x, size.y);
    this.paint.draw(context, size);
    this.loop.draw(context);
    if (this.seams) this.drawSeams(context, size);
    if (this.object) this.drawBox(context, this.object);
    this.scaleBar();
  }

  drawSeams(context, size) {
    for (const [kind, color] of [["tiles", "#ffffff90"], ["shards", "#00e0ffd0"]]) {
      const [rows, columns] = this.seams[kind];
      if (Math.max(rows.length / size.y, columns.length / size.x) * Math.max(1, 1 / this.zoom) > 1) continue;
      context.strokeStyle = color;
      context.lineWidth = 1;
      context.beginPath();
      const [x0, y0] = this.toScreen(0, 0), [x1, y1] = this.toScreen(this.height, this.width);
      for (const y of rows) { const at = Math.round(this.toScreen(y, 0)[1]) + 0.5; context.moveTo(x0, at); context.lineTo(x1, at); }
      for (const x of columns) { const at = Math.round(this.toScreen(0, x)[0]) + 0.5; context.moveTo(at, y0); context.lineTo(at, y1); }
      context.stroke();
    }
  }

  drawBox(context, row) {
    const [x0, y0] = this.toScreen(row.y0, row.x0), [x1, y1] = this.toScreen(row.y1, row.x1);
    context.strokeStyle = "#ffffff";
    context.lineWidth = 2;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }

  scaleBar() {
    const bar = document.getElementById("bar"), size = this.info.pixel_size_um;
    if (!size) {
      bar.textContent = "no pixel size, so no scale bar";
      return;
    }
    const um = roundLength((180 / this.zoom) * size[1]);
    const width = (um / size[1]) * this.zoom;
    bar.replaceChildren(lengthText(um), element("i", { style: `width:${width.toFixed(2)}px` }));
  }
}

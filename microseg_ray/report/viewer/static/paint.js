// Painting: brush, eraser, polygon, fill, undo. Each stroke is sent while it is drawn, in parts, and is on the disk when it is answered.
import { ask, element, Refused, show } from "./server.js";

const EVERY = 100; // ms between the parts of a stroke
const ERASER = 255;
const TOOLS = { look: "Look (Esc)", brush: "Brush (b)", erase: "Eraser (e)", polygon: "Polygon (g)", fill: "Fill (f)" };

function session() {
  let found = sessionStorage.getItem("microseg-session");
  if (!found) {
    found = crypto.randomUUID();
    sessionStorage.setItem("microseg-session", found);
  }
  return found;
}

export class Paint {
  constructor(page) {
    Object.assign(this, { page, tool: "look", value: 0, size: 9, pending: [], queue: Promise.resolve(), tiles: new Map(), version: 0, polygon: [], opacity: 0.8, stopped: false, waiting: 0 });
  }

  get active() {
    return this.tool !== "look";
  }

  async start() {
    const box = document.getElementById("tools");
    box.replaceChildren();
    this.about = await ask("api/labels");
    if (!this.about.labels) {
      box.append(element("p", {}, "To paint labels, start microseg view with --labels FOLDER."));
      return;
    }
    const found = await ask(`api/labels/${this.page.key}`);
    if (found.objection) {
      box.append(element("p", { class: "warning" }, `No painting here: ${found.objection}.`));
      return;
    }
    this.version = found.version;
    this.last = found.last;
    this.controls();
    this.bind();
    this.ready = true;
    this.page.draw();
  }

  close() {
    this.flush(true);
    this.closed = true;
    if (this.events) this.events.abort();
  }

  // Controls

  controls() {
    const classes = this.about.classes.map((each, index) => element("label", {}, element("input", { type: "radio", name: "paint", value: index, checked: index === this.value, onchange: () => { this.value = index; } }), element("span", { class: "swatch", style: `background:${each.color}` }), `${each.name} (${index + 1})`));
    const tools = Object.entries(TOOLS).map(([name, title]) => element("button", { "data-tool": name, class: name === this.tool ? "on" : null, onclick: () => this.choose(name) }, title));
    const who = element("input", { id: "who", maxlength: 60, value: localStorage.getItem("microseg-who") || this.about.who, onchange: (event) => localStorage.setItem("microseg-who", event.target.value) });
    const name = element("input", { id: "class-name", placeholder: "another class", size: 12 });
    const add = () => this.run(async () => {
      const found = await ask("api/labels/classes", { name: name.value });
      this.about.classes = found.classes;
      this.value = found.index;
      this.controls();
    });
    document.getElementById("tools").replaceChildren(
      element("fieldset", {}, element("legend", {}, "Labels"), element("p", {}, ...tools), ...classes,
        element("p", {}, name, element("button", { id: "add-class", onclick: add }, "Add")),
        element("label", {}, "Size", element("input", { id: "size", type: "range", min: 1, max: 101, step: 2, value: this.size, oninput: (event) => { this.size = Number(event.target.value); this.page.draw(); } })),
        element("label", {}, "Opacity", element("input", { type: "range", min: 0, max: 1, step: 0.05, value: this.opacity, oninput: (event) => { this.opacity = Number(event.target.value); this.page.draw(); } })),
        element("p", {}, element("button", { id: "undo", onclick: () => this.undo() }, "Undo (z)"), " ", element("button", { id: "copy", disabled: !this.page.info.layers.includes("mask"), onclick: () => this.copy() }, "Start from the model's mask")),
        element("label", {}, "Your name", who),
        element("p", { id: "saved" }, this.saved()), element("p", { id: "conflict", class: "warning" })));
  }

  saved() {
    return this.waiting ? "saving ..." : this.last ? `saved; last stroke by ${this.last.who || "?"}, ${this.last.when}` : "no labels yet";
  }

  choose(tool) {
    this.tool = tool;
    this.polygon = [];
    this.page.viewer.setMouseNavEnabled(!this.active);
    for (const button of document.querySelectorAll("#tools [data-tool]")) button.classList.toggle("on", button.dataset.tool === tool);
    document.getElementById("zoom").style.cursor = this.active ? "crosshair" : "";
    this.page.draw();
  }

  onKey(event) {
    if (!this.ready) return false;
    if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); this.undo(); return true; }
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const keys = { b: "brush", e: "erase", g: "polygon", f: "fill" };
    if (keys[event.key]) { this.choose(keys[event.key]); return true; }
    if (event.key === "z") { this.undo(); return true; }
    if (event.key === "Escape" && this.active) { this.choose("look"); return true; }
    if (event.key === "Enter" && this.polygon.length > 2) { this.closePolygon(); return true; }
    if (this.active && /^[1-9]$/.test(event.key) && Number(event.key) <= this.about.classes.length) {
      this.value = Number(event.key) - 1;
      this.controls();
      return true;
    }
    return false;
  }

  // The mouse

  bind() {
    this.events = new AbortController();
    const { signal } = this.events;
    const zoom = document.getElementById("zoom");
    const at = (event) => { const box = zoom.getBoundingClientRect(); return this.page.toImage(event.clientX - box.x, event.clientY - box.y); };
    zoom.addEventListener("pointerdown", (event) => {
      if (!this.active || event.button !== 0) return;
      event.preventDefault();
      if (this.tool === "fill") this.send({ tool: "fill", value: this.value, points: [at(event)] }, crypto.randomUUID());
      else if (this.tool === "polygon") { this.polygon.push(at(event)); if (event.detail > 1) this.closePolygon(); }
      else { zoom.setPointerCapture(event.pointerId); this.begin(at(event)); }
      this.page.draw();
    }, { signal, capture: true });
    zoom.addEventListener("pointermove", (event) => {
      this.mouse = at(event);
      if (this.stroke) this.stroke.points.push(...(event.getCoalescedEvents?.().map(at) || []), at(event));
      if (this.active) this.page.draw();
    }, { signal, capture: true });
    for (const kind of ["pointerup", "pointercancel"]) zoom.addEventListener(kind, () => this.end(), { signal, capture: true });
    zoom.addEventListener("wheel", (event) => {
      if (!this.active) return;
      // The wheel still zooms while a tool is chosen.
      event.preventDefault();
      const box = zoom.getBoundingClientRect();
      const viewport = this.page.viewer.viewport;
      viewport.zoomBy(event.deltaY < 0 ? 1.3 : 1 / 1.3, viewport.pointFromPixel(new OpenSeadragon.Point(event.clientX - box.x, event.clientY - box.y)));
    }, { signal, passive: false });
    // A page that is closed in mid-stroke: what was drawn is sent by the browser itself.
    window.addEventListener("pagehide", () => this.flush(true), { signal });
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.flush(true); }, { signal });
    this.timer = setInterval(() => { if (this.closed) clearInterval(this.timer); else this.flush(false); }, EVERY);
  }

  begin(point) {
    this.stroke = { id: crypto.randomUUID(), value: this.tool === "erase" ? ERASER : this.value, radius: Math.max(0.5, this.size / 2), points: [point], sent: 0 };
  }

  end() {
    if (!this.stroke) return;
    this.flush(false);
    this.stroke = null;
  }

  closePolygon() {
    const points = this.polygon;
    this.polygon = [];
    if (points.length > 2) this.send({ tool: "polygon", value: this.value, points }, crypto.randomUUID());
  }

  // What was drawn since the last part; parts overlap by a point, so that there is no gap.
  flush(leaving) {
    const { stroke } = this;
    if (!stroke || stroke.sent === stroke.points.length) return;
    const points = stroke.points.slice(Math.max(0, stroke.sent - 1));
    stroke.sent = stroke.points.length;
    this.send({ tool: "brush", value: stroke.value, radius: stroke.radius, points }, stroke.id, leaving);
  }

  // Sending: one after the other, nothing is dropped without a word.

  ticket(stroke) {
    return { who: document.getElementById("who")?.value || "", session: session(), version: this.version, stroke };
  }

  send(stroke, id, leaving = false) {
    const path = `api/labels/${this.page.key}/stroke`;
    if (leaving) {
      navigator.sendBeacon(path, JSON.stringify({ ...stroke, ...this.ticket(id) }));
      return;
    }
    const pending = { ...stroke, id };
    this.pending.push(pending);
    this.enqueue(async () => {
      await this.change(() => ask(path, { ...stroke, ...this.ticket(id) }));
      pending.done = true;
    });
  }

  enqueue(action) {
    this.waiting += 1;
    this.status();
    const step = async () => {
      try {
        if (!this.stopped) await action();
        else this.held = [...(this.held || []), action];
      } catch (error) {
        if (error instanceof Refused && error.status === 409) this.conflict(error, action);
        else { show(`Not saved: ${error.message}`); this.pending = this.pending.filter((each) => each.done); }
      }
      this.waiting -= 1;
      this.status();
    };
    this.queue = this.queue.then(step);
    return this.queue;
  }

  async change(request) {
    const entry = await request();
    this.version = entry.version;
    this.last = { who: entry.who, when: entry.when };
    this.stale(entry.box);
  }

  // Another person painted here: theirs is shown, and mine waits until I say.
  conflict(error, action) {
    this.stopped = true;
    this.held = [action];
    const go = async (mine) => {
      const found = await ask(`api/labels/${this.page.key}`);
      this.version = found.version;
      this.last = found.last;
      this.stale(null);
      const held = mine ? this.held : [];
      if (!mine) this.pending = [];
      this.held = [];
      this.stopped = false;
      document.getElementById("conflict").replaceChildren();
      held.forEach((each) => this.enqueue(each));
      this.page.draw();
    };
    this.stale(null);
    document.getElementById("conflict").replaceChildren(error.message, " ", element("button", { id: "mine", onclick: () => go(true) }, "Paint mine too"), " ", element("button", { id: "theirs", onclick: () => go(false) }, "Drop mine"));
  }

  status() {
    const place = document.getElementById("saved");
    if (place) place.textContent = this.saved();
    document.body.dataset.saving = String(this.waiting);
  }

  run(action) {
    action().then(() => show(""), (error) => show(error.message));
  }

  undo() {
    this.enqueue(() => this.change(() => ask(`api/labels/${this.page.key}/undo`, this.ticket("undo"))));
  }

  copy() {
    const size = this.page.viewer.viewport.getContainerSize();
    const [y0, x0] = this.page.toImage(0, 0).map(Math.floor), [y1, x1] = this.page.toImage(size.x, size.y).map(Math.ceil);
    this.enqueue(() => this.change(() => ask(`api/labels/${this.page.key}/copy`, { ...this.ticket(crypto.randomUUID()), box: [y0, x0, y1, x1] })));
  }

  // Tiles of labels: an older image stays until the newer one is there.

  stale(box) {
    for (const tile of this.tiles.values()) {
      const [y0, x0, y1, x1] = tile.box;
      if (!box || (box[0] < y1 && box[2] > y0 && box[1] < x1 && box[3] > x0)) tile.stale = true;
    }
    this.page.draw();
  }

  tile(level, column, row, box) {
    const key = `${level}/${column}/${row}`;
    let tile = this.tiles.get(key);
    if (!tile) this.tiles.set(key, (tile = { box, stale: true }));
    if (tile.stale && !tile.loading) {
      tile.stale = false;
      tile.loading = true;
      const image = new Image();
      image.onload = () => { tile.image = image; tile.loading = false; this.drop(); this.page.draw(); };
      image.onerror = () => { tile.loading = false; };
      image.src = `labels/${this.page.key}/${key}?v=${this.version}.${Math.random()}`;
    }
    return tile;
  }

  // Strokes that the tiles show by now need no preview.
  drop() {
    if ([...this.tiles.values()].some((tile) => tile.stale || tile.loading)) return;
    this.pending = this.pending.filter((each) => !each.done);
  }

  draw(context, size) {
    if (!this.ready) return;
    const { page } = this, side = page.info.tile;
    const most = Math.max(0, Math.ceil(Math.log2(Math.max(page.width, page.height) / side)));
    const level = Math.min(most, Math.max(0, Math.floor(-Math.log2(page.zoom) + 0.01)));
    const step = side * 2 ** level;
    const [y0, x0] = page.toImage(0, 0), [y1, x1] = page.toImage(size.x, size.y);
    const clamp = (value, end) => Math.min(Math.max(value, 0), end);
    context.imageSmoothingEnabled = false;
    context.globalAlpha = this.opacity;
    for (let row = Math.floor(clamp(y0, page.height - 1) / step); row * step < clamp(y1, page.height); row += 1) {
      for (let column = Math.floor(clamp(x0, page.width - 1) / step); column * step < clamp(x1, page.width); column += 1) {
        const box = [row * step, column * step, Math.min((row + 1) * step, page.height), Math.min((column + 1) * step, page.width)];
        const { image } = this.tile(level, column, row, box);
        if (!image) continue;
        const [left, top] = page.toScreen(box[0], box[1]).map(Math.round);
        const [right, bottom] = page.toScreen(box[0] + image.height * 2 ** level, box[1] + image.width * 2 ** level).map(Math.round);
        context.drawImage(image, left, top, right - left, bottom - top);
      }
    }
    for (const each of [...this.pending, ...(this.stroke ? [{ ...this.stroke, tool: "brush" }] : [])]) this.preview(context, each);
    context.globalAlpha = 1;
    this.outline(context);
  }

  color(value) {
    return value === ERASER ? "#ffffff" : this.about.classes[value].color;
  }

  path(context, points) {
    context.beginPath();
    points.forEach((point, place) => { const [x, y] = this.page.toScreen(...point); if (place) context.lineTo(x, y); else context.moveTo(x, y); });
  }

  preview(context, stroke) {
    if (stroke.tool === "fill") return;
    context.strokeStyle = context.fillStyle = this.color(stroke.value);
    this.path(context, stroke.points.length > 1 ? stroke.points : [stroke.points[0], stroke.points[0]]);
    if (stroke.tool === "polygon") { context.fill(); return; }
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = 2 * stroke.radius * this.page.zoom;
    context.stroke();
  }

  outline(context) {
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1.5;
    if (this.polygon.length) { this.path(context, [...this.polygon, ...(this.mouse ? [this.mouse] : [])]); context.stroke(); }
    if (!this.mouse || (this.tool !== "brush" && this.tool !== "erase")) return;
    const [x, y] = this.page.toScreen(...this.mouse);
    context.beginPath();
    context.arc(x, y, Math.max(1, (this.size / 2) * this.page.zoom), 0, 2 * Math.PI);
    context.stroke();
  }
}

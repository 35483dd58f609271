// The labelling loop: places to label next, learning in a process of the server, what it changed.
import { ask, element, show } from "./server.js";
import { hashOf } from "./place.js";

const EVERY = 500; // ms between looks at what is running
const KEPT = "microseg-place";

const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");

export class Loop {
  constructor(page) {
    Object.assign(this, { page, places: [], note: "", work: { kind: "", running: false }, rounds: [] });
    this.at = Number(sessionStorage.getItem(KEPT) ?? -1);
    this.box = document.getElementById("loop");
    this.box.replaceChildren();
  }

  async start() {
    if (!this.page.subject.run || !(await ask("api/labels")).labels) return;
    await this.read();
    if (this.closed) return;
    this.controls();
    this.ready = true;
    this.page.draw();
    this.watch();
  }

  close() {
    this.closed = true;
    this.box.replaceChildren();
  }

  async read() {
    const [found, learnt, work] = await Promise.all([ask("api/next"), ask(`api/learn/${this.page.key}`), ask("api/work")]);
    this.places = found.places || [];
    this.note = found.note;
    this.rounds = learnt.rounds;
    this.work = work;
  }

  // Controls

  controls() {
    const minutes = element("input", { id: "minutes", type: "number", min: 0.1, step: 0.5, value: localStorage.getItem("microseg-minutes") || 2, onchange: (event) => localStorage.setItem("microseg-minutes", event.target.value) });
    this.box.replaceChildren(
      element("fieldset", {}, element("legend", {}, "Where to label next"),
        element("p", {}, element("button", { id: "place-back", title: "key ,", onclick: () => this.go(-1) }, "Back"), " ", element("button", { id: "place-next", title: "key .", onclick: () => this.go(1) }, "Next place"), " ", element("button", { id: "find", onclick: () => this.begin("api/work/next", {}) }, "Find places")),
        element("p", { id: "place-reason" }), element("small", { class: "warning" }, this.note)),
      element("fieldset", {}, element("legend", {}, "Learn from the labels"),
        element("p", {}, element("button", { id: "learn", onclick: () => this.learn() }, "Learn"), " for ", minutes, " minutes ", element("button", { id: "cancel", onclick: () => this.send("api/work/cancel", {}) }, "Cancel")),
        element("p", { id: "work" }), element("progress", { id: "share", max: 1, hidden: true }), element("pre", { id: "says", class: "warning" }), element("ul", { id: "rounds" })));
    this.show();
  }

  show() {
    const { work } = this, place = this.places[this.at];
    const byId = (id) => document.getElementById(id);
    if (!byId("work")) return;
    byId("place-reason").textContent = !this.places.length ? "No places yet: press Find places." : place ? `Place ${this.at + 1} of ${this.places.length}: ${place.reasons}` : `${this.places.length} places.`;
    byId("place-back").disabled = this.at <= 0;
    byId("place-next").disabled = this.at >= this.places.length - 1;
    byId("find").disabled = byId("learn").disabled = work.running;
    byId("cancel").disabled = !work.running;
    const share = byId("share");
    share.hidden = !work.running;
    if (work.total) share.value = work.done / work.total;
    else share.removeAttribute("value");
    const what = { next: "Finding places", learn: "Learning" }[work.kind] || "";
    const ended = work.cancelled ? "cancelled" : work.failed ? "failed" : "done";
    byId("work").textContent = !what ? "" : work.running ? `${what}: ${work.stage || "starting"} ${work.detail || ""} (${Math.round(work.seconds)} s)` : `${what}: ${ended} after ${Math.round(work.seconds)} s`;
    byId("work").dataset.state = !what ? "" : work.running ? "running" : ended;
    byId("says").textContent = work.failed && !work.cancelled ? work.says : "";
    byId("rounds").replaceChildren(...this.rounds.map((each) => element("li", {}, `Round ${each.round}, ${each.steps} steps in ${Math.round(each.seconds.train)} s: ${percent(each.changed, each.pixels)} of the pixels changed. Labelled pixels that were right: ${percent(each.right_before, each.labelled)} before, ${percent(each.right_after, each.labelled)} now (the model was trained on them).`)));
  }

  // Places

  go(step) {
    const next = this.at + step;
    if (next < 0 || next >= this.places.length) return;
    this.at = next;
    sessionStorage.setItem(KEPT, String(next));
    const { key, box: [y0, x0, y1, x1] } = this.places[next];
    const size = this.page.viewer.viewport.getContainerSize();
    const z = Math.min(8, (0.5 * Math.min(size.x, size.y)) / Math.max(y1 - y0, x1 - x0));
    location.hash = hashOf("micrograph", key, { ...this.page.order, y: (y0 + y1) / 2, x: (x0 + x1) / 2, z: Number(z.toPrecision(4)) });
    this.show();
    this.page.draw();
  }

  onKey(event) {
    if (!this.ready || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.key === ".") { this.go(1); return true; }
    if (event.key === ",") { this.go(-1); return true; }
    return false;
  }

  draw(context) {
    const place = this.ready && this.places[this.at];
    if (!place || place.key !== this.page.key) return;
    const [y0, x0, y1, x1] = place.box;
    const [left, top] = this.page.toScreen(y0, x0), [right, bottom] = this.page.toScreen(y1, x1);
    context.strokeStyle = "#ffd000";
    context.lineWidth = 2;
    context.setLineDash([8, 5]);
    context.strokeRect(left, top, right - left, bottom - top);
    context.setLineDash([]);
  }

  // Work of the server

  async learn() {
    // Strokes that are on their way count.
    await this.page.paint.queue;
    await this.begin("api/work/learn", { key: this.page.key, minutes: Number(document.getElementById("minutes").value) });
  }

  async send(path, body) {
    try {
      this.work = await ask(path, body);
      show("");
    } catch (error) {
      show(error.message);
    }
    this.show();
  }

  async begin(path, body) {
    await this.send(path, body);
    this.watch();
  }

  async watch() {
    if (this.watching) return;
    this.watching = true;
    while (!this.closed && this.work.running) {
      await new Promise((done) => { setTimeout(done, EVERY); });
      if (this.closed) return;
      // A server that does not answer for once may answer the next time.
      this.work = await ask("api/work").catch(() => this.work);
      if (!this.closed && !this.work.running) await this.ended();
      if (!this.closed) this.show();
    }
    this.watching = false;
  }

  async ended() {
    if (this.work.failed || this.work.cancelled) return;
    if (this.work.kind === "next") {
      this.at = -1;
      sessionStorage.setItem(KEPT, "-1");
      await this.read();
      document.querySelector("#loop small").textContent = this.note;
    } else await this.page.reopen();
  }
}

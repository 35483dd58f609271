// The list of micrographs.
import { ask, element } from "./server.js";
import { hashOf } from "./place.js";

const SIZE = 50;
const percent = (value) => (value === null ? "–" : (100 * value).toFixed(2));

// An order that is not given is the server's: outliers first in a run, by name in an archive.
export function askList(values) {
  const given = ["sort", "order", "page", "contains", "state"].filter((each) => values[each]).map((each) => [each, values[each]]);
  return ask(`api/list?${new URLSearchParams([...given, ["size", SIZE]])}`);
}

export function showList(subject, values, found) {
  const order = { sort: values.sort || (subject.run ? "outlier" : "name"), order: values.order || (subject.run ? "down" : "up"), page: Number(values.page || 0), contains: values.contains || "", state: values.state || "" };
  heading(subject);
  controls(order, found);
  head(subject, order);
  document.querySelector("#rows tbody").replaceChildren(...found.rows.map((row) => line(subject, row, order)));
}

function heading(subject) {
  document.title = `${subject.title} – microseg`;
  document.getElementById("title").textContent = `${subject.run ? "Run" : "Archive"} ${subject.title}`;
  const states = Object.entries(subject.counts).filter(([state, count]) => count && state !== "image").map(([state, count]) => `${count} ${state}`);
  const half = subject.counts.unfinished ? " The run is not finished: what is missing is shown as far as it is computed." : "";
  document.getElementById("summary").textContent = `${subject.micrographs} micrographs${states.length ? `: ${states.join(", ")}.` : "."}${half} ${subject.promise}`;
}

function go(order, change) {
  location.hash = hashOf("list", "", { ...order, page: 0, ...change });
}

function controls(order, found) {
  const contains = document.getElementById("contains"), state = document.getElementById("state");
  if (document.activeElement !== contains) contains.value = order.contains;
  state.value = order.state;
  let waiting = 0;
  contains.oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => go(order, { contains: contains.value }), 200); };
  state.onchange = () => go(order, { state: state.value });
  const pages = Math.max(1, Math.ceil(found.total / SIZE));
  const button = (text, page) => element("button", { disabled: page < 0 || page >= pages, onclick: () => go(order, { page }) }, text);
  document.getElementById("pager").replaceChildren(button("‹", order.page - 1), ` page ${order.page + 1} of ${pages}, ${found.total} micrographs `, button("›", order.page + 1));
}

function head(subject, order) {
  const column = (text, sort, color) => {
    const arrow = order.sort === sort ? (order.order === "down" ? " ▼" : " ▲") : "";
    const turn = () => go(order, { sort, order: order.sort === sort && order.order === "down" ? "up" : "down" });
    return element("th", { class: "sortable", "data-sort": sort, onclick: turn }, ...(color ? [element("span", { class: "swatch", style: `background:${color}` })] : []), text + arrow);
  };
  const classes = subject.classes.map((each, index) => column(`${each.name} %`, String(index), each.color));
  const more = subject.run ? [column("outlier", "outlier")] : [];
  document.querySelector("#rows thead").replaceChildren(element("tr", {}, element("th"), column("micrograph", "name"), column("state", "state"), ...more, ...classes));
}

function line(subject, row, order) {
  const link = hashOf("micrograph", row.key, { sort: order.sort, order: order.order });
  const cells = row.fractions.map((value, index) => {
    const [low, high] = row.intervals[index];
    const um2 = row.areas_um2[index];
    return element("td", { "data-value": value }, percent(value), low === null ? null : element("small", {}, `${percent(low)} to ${percent(high)}`), um2 === null ? null : element("small", {}, `${Number(um2.toPrecision(4))} µm²`));
  });
  const state = row.missing ? `${row.state}, file missing` : row.state;
  const outlier = subject.run ? [element("td", { "data-value": row.outlier }, row.outlier === null ? "–" : row.outlier.toFixed(1))] : [];
  const picture = row.missing ? null : element("img", { src: `thumbnail/${row.key}`, loading: "lazy", alt: "" });
  return element("tr", { "data-key": row.key }, element("td", {}, element("a", { href: link }, picture)), element("td", {}, element("a", { href: link }, row.name), row.reason ? element("small", {}, row.reason) : null), element("td", {}, state), ...outlier, ...cells);
}

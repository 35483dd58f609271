// Start: which page the address asks for.
import { ask, show } from "./server.js";
import { parseHash } from "./place.js";
import { askList, showList } from "./list.js";

let subject = null;
let turn = 0;
let asked = null;
let micrographs = null;

// What shows a micrograph is ten times what shows the list: it is read after the list, or when it is needed.
function readMicrographs() {
  asked = asked || readScript("static/openseadragon.min.js").then(() => import("./micrograph.js")).then((found) => (micrographs = found));
  // Asked anew after a failure.
  asked.catch(() => { asked = null; });
  return asked;
}

function readScript(address) {
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = done;
    script.onerror = () => failed(new Error("the server does not answer; is `microseg view` still running?"));
    document.head.append(script);
  });
}

async function route() {
  const own = (turn += 1);
  show("");
  try {
    const { page, key, values } = parseHash(location.hash);
    // Both at once: the list does not wait for what the page is about.
    const wanted = Promise.all([subject || ask("api/subject"), page === "micrograph" ? readMicrographs() : askList(values)]);
    const [about, found] = await wanted;
    // A later address was asked for while this one waited.
    if (own !== turn) return;
    subject = about;
    if (page === "micrograph") {
      document.getElementById("list").hidden = true;
      document.getElementById("view").hidden = false;
      await found.openMicrograph(subject, key, values);
    } else {
      if (micrographs) micrographs.closeMicrograph();
      document.getElementById("view").hidden = true;
      document.getElementById("list").hidden = false;
      showList(subject, values, found);
      requestAnimationFrame(() => setTimeout(() => readMicrographs().catch(() => {}), 1000));
    }
  } catch (error) {
    if (own === turn) show(error.message);
  }
  if (own !== turn) return;
  document.body.dataset.ready = location.hash || "#";
}

window.addEventListener("hashchange", route);
route();

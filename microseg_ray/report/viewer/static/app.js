// Start: which page the address asks for.
import { ask, show } from "./server.js";
import { parseHash } from "./place.js";
import { showList } from "./list.js";
import { openMicrograph, closeMicrograph } from "./micrograph.js";

let subject = null;

async function route() {
  show("");
  try {
    subject = subject || (await ask("api/subject"));
    const { page, key, values } = parseHash(location.hash);
    if (page === "micrograph") {
      document.getElementById("list").hidden = true;
      document.getElementById("view").hidden = false;
      await openMicrograph(subject, key, values);
    } else {
      closeMicrograph();
      document.getElementById("view").hidden = true;
      document.getElementById("list").hidden = false;
      await showList(subject, values);
    }
  } catch (error) {
    show(error.message);
  }
  document.body.dataset.ready = location.hash || "#";
}

window.addEventListener("hashchange", route);
route();

// Asking the server.

export class Refused extends Error {
  constructor(status, document) {
    super(document.error || `the server answered ${status}`);
    this.status = status;
    this.document = document;
  }
}

export async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const document = (response.headers.get("content-type") || "").includes("json") ? await response.json() : { error: await response.text() };
  if (!response.ok) throw new Refused(response.status, document);
  return document;
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  // Text nodes only: a name of a file is never read as HTML.
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function show(message) {
  const place = document.getElementById("error");
  place.hidden = !message;
  place.textContent = message || "";
}

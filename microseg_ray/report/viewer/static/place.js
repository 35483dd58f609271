// The address behind `#`: which page, and which place of a micrograph. Pure functions.

export function parseHash(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split("?");
  const values = Object.fromEntries(new URLSearchParams(query));
  const parts = path.split("/");
  return parts[0] === "m" && parts[1] ? { page: "micrograph", key: parts[1], values } : { page: "list", key: "", values };
}

export function hashOf(page, key, values) {
  const kept = Object.entries(values).filter(([, value]) => value !== "" && value !== undefined && value !== null);
  const query = new URLSearchParams(kept.map(([name, value]) => [name, String(value)])).toString();
  return `#${page === "micrograph" ? `m/${key}` : "list"}${query ? `?${query}` : ""}`;
}

// A round length of 1, 2 or 5 times a power of ten, at most `longest`.
export function roundLength(longest) {
  const decade = 10 ** Math.floor(Math.log10(longest));
  const steps = [1, 2, 5, 10].map((digit) => digit * decade).filter((length) => length <= longest * (1 + 1e-12));
  return steps[steps.length - 1];
}

export function lengthText(um) {
  const [unit, factor] = um >= 1000 ? ["mm", 1e-3] : um >= 1 ? ["µm", 1] : ["nm", 1e3];
  return `${Number((um * factor).toPrecision(3))} ${unit}`;
}

// The largest difference of two stretches of the screen that a wheel or a key makes: screen pixels per pixel of the image.
export function clampZoom(zoom, least) {
  return Math.min(Math.max(zoom, least), 32);
}

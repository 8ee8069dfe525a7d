/** The API's description, openapi.json, for people: every route with its text, its parameters and its body. */

/** An element with attributes and children; text is text and never markup. */
function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function operation(method, path, { description, summary, parameters = [], requestBody }) {
  const shown = el("details", {}, el("summary", {}, el("b", {}, method.toUpperCase()), el("code", {}, path)));
  shown.append(el("p", { class: "text" }, description ?? summary ?? ""));
  if (parameters.length) {
    const items = parameters.map((it) => el("li", {}, el("code", {}, it.name), ` (${it.in})`, it.required ? "" : ", optional"));
    shown.append(el("p", {}, "Parameters"), el("ul", {}, ...items));
  }
  for (const [type, { schema }] of Object.entries(requestBody?.content ?? {})) {
    shown.append(el("p", {}, `Body: ${type}`), el("pre", { tabindex: "0" }, JSON.stringify(schema, null, 2)));
  }
  return shown;
}

function sections({ paths }) {
  const byTag = new Map();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, described] of Object.entries(methods)) {
      const tag = described.tags?.[0] ?? "other";
      if (!byTag.has(tag)) byTag.set(tag, el("section", {}, el("h2", {}, tag)));
      byTag.get(tag).append(operation(method, path, described));
    }
  }
  return byTag.values();
}

const about = document.getElementById("about");
try {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`status ${response.status}`);
  document.getElementById("api").append(...sections(await response.json()));
} catch (error) {
  about.append(` It could not be loaded: ${error.message}.`);
}

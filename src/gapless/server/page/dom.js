/** What every module of the page makes its elements with. */

/** Makes an element; text children become text nodes. `true` is an attribute without a value, `false` and `null` none. */
export function el(tag, attrs = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Lets an element say this: what it says already stays, with what is selected of it, and what it grows by is added. */
export function says(node, text) {
  const said = node.textContent;
  if (said === text) return;
  const only = node.childNodes.length === 1 ? node.firstChild : null;
  if (only?.nodeType === Node.TEXT_NODE && said && text.startsWith(said)) only.appendData(text.slice(said.length));
  else node.textContent = text;
}

/** The page's element of this id. */
export const $ = (id) => document.getElementById(id);

let serial = 0;

/** An id that no other element of the page has. */
export function freshId(prefix) {
  return `${prefix}-${(serial += 1)}`;
}

/** A value as people read it, if it is JSON; any other text as it is. */
export function pretty(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? JSON.stringify(value, null, 2) : text;
  } catch {
    return text;
  }
}

/** Enter sends, as in the message field; Shift+Enter starts a line. */
export function onEnter(field, send) {
  onKey(field, "Enter", (event) => {
    if (event.shiftKey) return;
    event.preventDefault();
    send();
  });
}

/** Has `leave(event)` called when Escape is pressed in this element. */
export function onEscape(node, leave) {
  onKey(node, "Escape", leave);
}

/** An input method's own Enter picks a word, and its own Escape leaves one: they are no keys of the page's. */
function onKey(node, key, then) {
  node.addEventListener("keydown", (event) => {
    const composes = event.isComposing || event.keyCode === 229; // Safari says so of the key that ends it by the code alone
    if (event.key === key && !composes) then(event);
  });
}

/** A time of today by its hour, any other by its day. */
export function when(ms) {
  const date = new Date(ms);
  const today = new Date().toDateString() === date.toDateString();
  return date.toLocaleString([], today ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" });
}

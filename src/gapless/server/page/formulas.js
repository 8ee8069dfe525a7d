/**
 * Formulas: the server makes MathML of LaTeX, and the browser sets it. All that are in an answer are asked for at once,
 * each once; one that the server cannot read, or not yet, stays as it was written.
 */

import { setFormulas } from "./api.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
/** So long is gathered what comes together. */
const GATHER_MS = 50;
/** What one request may carry (formulas.py has the same bound), and how many formulas are kept. */
const CHARS_MAX = 20_000;
const KEPT_MAX = 1000;

const known = new Map(); // what was asked → MathML as it came, null where there is none
let wanted = new Map(); // the same → { tex, display, nodes }
let timer = null;

/** Shows the formula of a node in MathML, as soon as that is there. */
export function setFormula(node) {
  const { tex } = node.dataset;
  const display = "display" in node.dataset;
  const key = `${display}${tex}`;
  if (known.has(key)) return show(node, known.get(key));
  if (!wanted.has(key)) wanted.set(key, { tex, display, nodes: [] });
  wanted.get(key).nodes.push(node);
  timer ??= setTimeout(ask, GATHER_MS);
}

async function ask() {
  const batch = [];
  let chars = 0;
  for (const [key, one] of wanted) {
    chars += one.tex.length + 1;
    if (chars > CHARS_MAX && batch.length > 0) break;
    batch.push([key, one]);
    wanted.delete(key);
  }
  try {
    const made = await setFormulas(batch.map(([, { tex, display }]) => ({ tex, display })));
    batch.forEach(([key, { nodes }], index) => {
      known.set(key, made[index]);
      for (const node of nodes) show(node, made[index]);
    });
    while (known.size > KEPT_MAX) known.delete(known.keys().next().value);
  } catch {
    wanted = new Map([...batch, ...wanted]); // the next formula asks for these again
    timer = null;
    return;
  }
  timer = wanted.size > 0 ? setTimeout(ask, GATHER_MS) : null;
}

function show(node, tree) {
  if (tree) node.replaceChildren(made(tree));
}

function made([tag, attributes, children]) {
  const node = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map((child) => (typeof child === "string" ? child : made(child))));
  return node;
}

/**
 * A streaming Markdown renderer that is safe by construction: it builds DOM nodes and never parses HTML, so markup in
 * the text stays text. Text may come in pieces of any size; the result is the same as rendering it at once.
 *
 *   const stream = new MarkdownStream(element);
 *   stream.append("# Hel");
 *   stream.append("lo\n");
 *   stream.end();
 *
 * What it knows: paragraphs, ATX headings, fenced code, lists (nested), quotes, tables, rules, emphasis, strong,
 * strikethrough, inline code, links, bare URLs, hard breaks, backslash escapes, tasks, formulas in LaTeX ($, $$, \(, \[),
 * and complete code in its colours. Left out on purpose: raw HTML, link
 * definitions, indented code, underlined headings (a model's `---` is meant as a rule). Images become links, because
 * loading one would tell its host who is reading.
 *
 * Three modules: `markdown-blocks.js` makes lines into blocks, `markdown-inline.js` text into inline nodes, and this one
 * shows both as DOM nodes. Only the blocks that are still open are compared with the DOM, and of a long open paragraph
 * only the part that more text can still change. With `sliceMs`, `append` and `end` return after about that time, and
 * `goOn` takes what is left.
 *
 * Why by hand, measured with the cases of `tests/page/markdown.test.mjs`: `streaming-markdown` 0.2.15
 * lets links to `javascript:` and `data:` through, loads images, makes emphasis of `snake_case_name`, decodes no
 * entities, and of 3,000 random texts shows 19 otherwise in pieces than whole (this one 0 of 6,000). `marked` (52 KB)
 * with a sanitiser would read the whole text again at each piece and go through `innerHTML`.
 *
 * An outermost block whose first word is of a script that goes from right to left has `dir="rtl"`: its list's markers, its
 * quote's edge and its table's columns are on that side. The paragraphs within read each in its own direction, by style.css.
 * (`dir="auto"` cost ten times as much as all else here: the browser looks for a letter anew at each piece.)
 */

import { colours } from "./colours.js";
import { BlockTree } from "./markdown-blocks.js";
import { directionOf } from "./markdown-direction.js";
import { formulaNode, parseInline } from "./markdown-inline.js";

/** Lines of code per element: the browser lays out each element anew when its text grows. */
const CODE_CHUNK_LINES = 64;
/** Characters that are taken before the clock is looked at: the dearest (a cell each) take some ten milliseconds. */
const SLICE_CHARS = 2000;
const SLICE_MS_MAX = 40;
/** A longer paragraph is read in parts, over whose ends no marker reaches: a hundred thousand brackets that are open would
 * be read anew with each word, for 40 ms each time. */
const PART_CHARS = 8192;

export class MarkdownStream {
  #element;
  #tree = new BlockTree();
  #states = new WeakMap(); // DOM node → what it shows
  #ended = false;
  #complete = false;
  #waiting = ""; // what is not taken yet
  #workedAt = Infinity; // when it has last worked
  #onFormula;
  #sliceMs;

  /**
   * Renders into `element`, whose children belong to the renderer from then on. `onFormula(node)` is told of each element
   * that shows a formula as it was written, with its LaTeX in `data-tex`, and may put something else in it. `sliceMs` is
   * how long it may work at once, longer where what it shows takes the browser longer to lay out; what it was given in
   * vain until then is `behind`.
   */
  constructor(element, { onFormula = () => {}, sliceMs = Infinity } = {}) {
    this.#element = element;
    this.#onFormula = onFormula;
    this.#sliceMs = sliceMs;
  }

  /** Whether there is more to show, by `goOn()`. */
  get behind() {
    return this.#waiting !== "";
  }

  /** Takes the next piece of text. */
  append(text) {
    if (this.#ended) throw new Error("append() after end()");
    this.#waiting += text;
    this.goOn();
  }

  /** Says that the text is complete: what was held back or shown on trial gets its final form. */
  end() {
    if (this.#ended) return;
    this.#ended = true;
    this.goOn();
  }

  /** Takes what waits, for as long as it may work at once. */
  goOn() {
    const now = performance.now();
    // Each look lays a long list or table out anew: with few words for each, that would be most of the time.
    const until = now + Math.max(this.#sliceMs, Math.min(now - this.#workedAt, SLICE_MS_MAX));
    const size = Number.isFinite(this.#sliceMs) ? SLICE_CHARS : Infinity;
    do {
      if (this.#waiting !== "") this.#tree.append(this.#waiting.slice(0, size));
      this.#waiting = this.#waiting.slice(size);
      if (this.#ended && !this.#complete && !this.behind) {
        this.#complete = true;
        this.#tree.end();
      }
      this.#sync();
    } while (this.behind && performance.now() < until);
    this.#workedAt = performance.now();
  }

  #sync() {
    this.#syncChildren(this.#tree.doc, this.#element);
    this.#tree.settle();
  }

  #syncChildren(block, parent) {
    for (let index = block.synced; index < block.children.length; index += 1) {
      const old = parent.childNodes[index] ?? null;
      const node = this.#render(block.children[index], old, block);
      if (block.type === "doc") setDirection(node, directionOf(block.children[index]));
      if (old === null) parent.append(node);
      else if (old !== node) old.replaceWith(node);
    }
    while (parent.childNodes.length > block.children.length) parent.lastChild.remove();
  }

  /** Shows a block in `old` if that is the right kind of element, in a new one otherwise. */
  #render(block, old, parent) {
    const tag = tagOf(block);
    const node = old?.localName === tag ? old : document.createElement(tag);
    switch (block.type) {
      case "code":
        this.#renderCode(block, node);
        break;
      case "para":
      case "heading":
        this.#renderInline(block, node);
        break;
      case "row":
        this.#renderRow(block, node, parent.aligns);
        break;
      case "table": {
        let table = node.firstChild;
        if (table?.localName !== "table") {
          table = document.createElement("table");
          node.className = "table";
          node.replaceChildren(table);
        }
        this.#syncChildren(block, table);
        break;
      }
      case "list":
        if (block.start !== null && block.start !== 1) setAttribute(node, "start", String(block.start));
        else if (node.hasAttribute("start")) node.removeAttribute("start");
        this.#syncChildren(block, node);
        break;
      case "rule":
        break;
      case "formula": {
        const tex = block.text.trim();
        const nodes = block.closed && tex ? [formulaNode({ tex, marks: [block.mark, block.end], display: true })] : [`${block.mark}\n${tex}`];
        patch(node, 0, nodes, this.#onFormula);
        break;
      }
      default:
        if (block.task) setAttribute(node, "data-task", block.task);
        else if (node.hasAttribute("data-task")) node.removeAttribute("data-task");
        this.#syncChildren(block, node);
    }
    return node;
  }

  #renderInline(block, node) {
    const streaming = this.#tree.isOpen(block);
    let text = block.text;
    if (streaming) text = text.replace(/(^|\n)\|[^\n]*(?:\n\|[-:| \t]*)?$/, ""); // perhaps a table's head
    text = text.trimEnd();
    let state = this.#states.get(node);
    if (state?.text === text && state.streaming === streaming) return;
    // `settled` is what no further text changes, `part` where the part begins that is read, `count` the nodes before.
    if (!state || !text.startsWith(state.settled)) state = { settled: "", part: 0, count: 0 };
    for (let end = -1; end !== text.length; ) {
      end = partEnd(text, state.part);
      const last = end === text.length;
      const from = state.settled.length;
      const { nodes, safe } = parseInline(text.slice(from, end), text[from - 1] ?? "\n", streaming && last);
      patch(node, state.count, nodes, this.#onFormula);
      const settled = last ? safe : { pos: end - from, count: nodes.length };
      if (settled !== null) {
        state.count += settled.count;
        state.settled = text.slice(0, from + settled.pos);
      }
      if (!last) state.part = end;
    }
    this.#states.set(node, { ...state, text, streaming });
  }

  #renderRow(block, node, aligns) {
    const cells = block.cells.map((cell, index) => ({
      tag: block.head ? "th" : "td",
      attrs: aligns[index] ? { class: aligns[index] } : {},
      children: parseInline(cell, "\n", false).nodes,
    }));
    patch(node, 0, cells, this.#onFormula);
  }

  #renderCode(block, node) {
    let state = this.#states.get(node);
    if (!state || !block.text.startsWith(state.text) || (state.coloured && state.text !== block.text)) {
      const caption = element("figcaption", {}, [
        element("span", {}, [block.info || "text"]),
        element("button", { type: "button", class: "copy" }, ["Copy"]),
      ]);
      const code = element("code", {}, []);
      node.className = "code";
      node.replaceChildren(caption, element("pre", { tabindex: "0" }, [code]));
      state = { code, label: caption.firstChild, chunk: null, lines: 0, text: "", coloured: false };
      this.#states.set(node, state);
    }
    if (state.label.textContent !== (block.info || "text")) state.label.textContent = block.info || "text";
    for (const line of block.text.slice(state.text.length).match(/[^\n]*\n|[^\n]+/g) ?? []) {
      if (state.chunk === null || state.lines >= CODE_CHUNK_LINES) {
        state.chunk = document.createTextNode("");
        state.code.append(element("span", { class: "chunk" }, [state.chunk]));
        state.lines = 0;
      }
      state.chunk.appendData(line);
      if (line.endsWith("\n")) state.lines += 1;
    }
    state.text = block.text;
    if (!state.coloured && !this.#tree.isOpen(block)) {
      state.coloured = true;
      colour(state.code, block.text, block.info);
    }
  }
}

/** Shows complete code in its colours, in the same chunks of lines. */
function colour(code, text, info) {
  const pieces = colours(text, info);
  if (!pieces) return;
  const chunks = [];
  let lines = CODE_CHUNK_LINES;
  for (const [kind, piece] of pieces) {
    for (const line of piece.match(/[^\n]*\n|[^\n]+/g)) {
      if (lines >= CODE_CHUNK_LINES) {
        chunks.push(element("span", { class: "chunk" }, []));
        lines = 0;
      }
      const chunk = chunks.at(-1);
      const last = chunk.lastChild;
      if (kind !== "") chunk.append(element("span", { class: kind }, [line]));
      else if (last?.nodeType === Node.TEXT_NODE) last.appendData(line);
      else chunk.append(line);
      if (line.endsWith("\n")) lines += 1;
    }
  }
  code.replaceChildren(...chunks);
}

/** Where the part that begins here ends: between two words if it can, and never within a character. */
function partEnd(text, part) {
  const most = part + PART_CHARS;
  if (text.length <= most) return text.length;
  const space = text.lastIndexOf(" ", most - 1);
  if (space > most - PART_CHARS / 2) return space + 1;
  const code = text.charCodeAt(most - 1);
  return code >= 0xd800 && code <= 0xdbff ? most - 1 : most;
}

/** Renders a whole text into an element. */
export function renderMarkdown(element, text) {
  const stream = new MarkdownStream(element);
  stream.append(text);
  stream.end();
}

function tagOf(block) {
  switch (block.type) {
    case "heading":
      return `h${block.level}`;
    case "list":
      return block.start === null ? "ul" : "ol";
    default:
      return { para: "p", quote: "blockquote", item: "li", code: "figure", rule: "hr", table: "div", row: "tr", formula: "p" }[block.type];
  }
}

// Nodes to DOM: what is already right is left alone, so that a selection or a click survives the next delta.

function patch(parent, from, nodes, onFormula) {
  nodes.forEach((node, offset) => {
    const old = parent.childNodes[from + offset] ?? null;
    const made = patchNode(old, node, onFormula);
    if (old === null) parent.append(made);
    else if (old !== made) old.replaceWith(made);
  });
  while (parent.childNodes.length > from + nodes.length) parent.lastChild.remove();
}

function patchNode(old, node, onFormula) {
  if (typeof node === "string") {
    if (old?.nodeType !== Node.TEXT_NODE) return document.createTextNode(node);
    if (old.data !== node) {
      if (node.startsWith(old.data)) old.appendData(node.slice(old.data.length));
      else old.data = node;
    }
    return old;
  }
  const tex = node.attrs["data-tex"];
  if (tex !== undefined) {
    if (old?.dataset?.tex === tex && ("display" in old.dataset) === ("data-display" in node.attrs)) return old; // it may be set by now
    const made = element(node.tag, node.attrs, node.children);
    onFormula(made);
    return made;
  }
  const made = old?.localName === node.tag && !old.dataset.tex ? old : document.createElement(node.tag);
  for (const { name } of [...made.attributes]) if (!(name in node.attrs)) made.removeAttribute(name);
  for (const [name, value] of Object.entries(node.attrs)) setAttribute(made, name, value);
  patch(made, 0, node.children, onFormula);
  return made;
}

function setDirection(node, direction) {
  if (direction === "rtl") setAttribute(node, "dir", "rtl");
  else if (node.hasAttribute("dir")) node.removeAttribute("dir");
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function element(tag, attrs, children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

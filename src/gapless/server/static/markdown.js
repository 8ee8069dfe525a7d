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
 * strikethrough, inline code, links, bare URLs, hard breaks, backslash escapes. Left out on purpose: raw HTML, link
 * definitions, indented code, underlined headings (a model's `---` is meant as a rule). Images become links, because
 * loading one would tell its host who is reading.
 *
 * How it stays fast: each complete line is parsed once and then belongs to the tree for good. The last, unfinished
 * line is parsed on top of that as if it were complete, and taken back when more of it comes. Only the blocks that are
 * still open are compared with the DOM, and of a long open paragraph only the part that more text can still change.
 */

/** Containers (quotes, lists, items) open inside one another; deeper markers are text. */
const BLOCK_DEPTH_MAX = 40;
/** Emphasis and links inside one another; deeper markers are text. */
const INLINE_DEPTH_MAX = 20;
/** Markers that are shown as if they were closed while the text grows. */
const TRIAL_DEPTH_MAX = 3;
/** A longer line is no table's delimiter row. */
const DELIMITER_ROW_CHARS_MAX = 2000;
/** Lines of code per element: the browser lays out each element anew when its text grows. */
const CODE_CHUNK_LINES = 64;
/** Characters between the places at which an open paragraph may be divided into a settled and an open part. */
const SETTLE_CHARS = 256;

export class MarkdownStream {
  #element;
  #doc = { type: "doc", children: [], synced: 0 };
  #stack = [this.#doc]; // the open blocks, outermost first; only these can change
  #tail = ""; // the unfinished last line
  #undo = null; // how to take the unfinished line back out of the tree
  #states = new WeakMap(); // DOM node → what it shows
  #ended = false;

  /** Renders into `element`, whose children belong to the renderer from then on. */
  constructor(element) {
    this.#element = element;
  }

  /** Takes the next piece of text. */
  append(text) {
    if (this.#ended) throw new Error("append() after end()");
    this.#rollBack();
    const lines = (this.#tail + text.replaceAll("\r", "")).split("\n");
    this.#tail = lines.pop();
    for (const line of lines) this.#takeLine(line);
    this.#checkPoint();
    if (!isUndecided(this.#tail, this.#stack.at(-1))) this.#takeLine(this.#tail, "");
    this.#sync();
  }

  /** Says that the text is complete: what was held back or shown on trial gets its final form. */
  end() {
    if (this.#ended) return;
    this.#ended = true;
    this.#rollBack();
    if (this.#tail !== "") this.#takeLine(this.#tail);
    this.#tail = "";
    this.#stack.length = 1;
    this.#checkPoint();
    this.#sync();
  }

  // The unfinished line can only change open blocks, and of those only the text and the end of the list of children.

  #checkPoint() {
    this.#undo = {
      stack: this.#stack.slice(),
      blocks: this.#stack.map((block) => ({
        text: block.text,
        length: block.children?.length,
        last: block.children?.at(-1),
      })),
    };
  }

  #rollBack() {
    if (this.#undo === null) return;
    this.#stack = this.#undo.stack;
    this.#undo.blocks.forEach(({ text, length, last }, index) => {
      const block = this.#stack[index];
      block.text = text;
      if (length !== undefined) {
        block.children.length = length;
        if (length > 0) block.children[length - 1] = last;
      }
    });
    this.#undo = null;
  }

  // Lines to blocks.

  /** Takes a line into the tree. `lineEnd` is empty for the unfinished one: code shows the difference. */
  #takeLine(line, lineEnd = "\n") {
    const stack = this.#stack;
    let rest = line.replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));
    let matched = 1;
    for (; matched < stack.length; matched += 1) {
      const block = stack[matched];
      if (block.type === "quote") {
        const marker = /^ {0,3}> ?/.exec(rest);
        if (!marker) break;
        rest = rest.slice(marker[0].length);
      } else if (block.type === "item") {
        const indent = indentOf(rest);
        if (indent < rest.length && indent < block.indentMin) break;
        rest = rest.slice(Math.min(indent, block.indent));
      } else if (block.type !== "list") break;
    }

    const leaf = stack[matched];
    if (leaf?.type === "code") {
      if (isClosingFence(rest, leaf)) stack.length = matched;
      else leaf.text += `${rest.slice(Math.min(indentOf(rest), leaf.indent))}${lineEnd}`;
      return;
    }
    if (rest.trim() === "") {
      stack.length = matched;
      return;
    }

    // A list whose item did not match goes on only if this line starts another item of it.
    let depth = stack[matched - 1].type === "list" ? matched - 1 : matched;
    let fresh = false; // a container was opened on this line
    for (;;) {
      const inParagraph = !fresh && stack[matched]?.type === "para";
      let match;
      if ((match = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*)$/.exec(rest))) {
        const info = unescapeText(match[2].trim().split(/\s/)[0]);
        this.#open(depth, { type: "code", fence: match[1], indent: indentOf(rest), info, text: "" });
        return;
      }
      if ((match = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/.exec(rest))) {
        const text = withoutClosingMarks((match[2] ?? "").trim());
        this.#open(depth, { type: "heading", level: match[1].length, text });
        stack.length -= 1;
        return;
      }
      if (/^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/.test(rest)) {
        this.#open(depth, { type: "rule" });
        stack.length -= 1;
        return;
      }
      if (stack.length >= BLOCK_DEPTH_MAX) break;
      if ((match = /^ {0,3}> ?/.exec(rest))) {
        this.#open(depth, { type: "quote", children: [], synced: 0 });
        rest = rest.slice(match[0].length);
      } else if ((match = listMarker(rest, inParagraph))) {
        // The list that this line may continue is the last matched one.
        const list = fresh ? null : stack[matched - 1];
        if (list?.type === "list" && list.kind === match.kind) stack.length = matched;
        else this.#open(depth, { type: "list", kind: match.kind, start: match.start, children: [], synced: 0 });
        this.#open(stack.length, { type: "item", ...match.indents, children: [], synced: 0 });
        rest = rest.slice(match.indents.indent);
      } else break;
      fresh = true;
      depth = stack.length;
      if (rest.trim() === "") return;
    }

    const text = rest.trimStart();
    const open = stack.at(-1);
    if (!fresh && open.type === "table" && stack[matched] === open && text.includes("|")) {
      open.children.push({ type: "row", cells: splitRow(text) });
      return;
    }
    if (!fresh && open.type === "para") {
      // Also when the markers of its containers are missing: a paragraph goes on lazily.
      if (!(stack[matched] === open && this.#startTable(open, text))) open.text += `\n${text}`;
      return;
    }
    this.#open(fresh ? stack.length : depth, { type: "para", text });
  }

  #open(depth, block) {
    this.#stack.length = depth;
    this.#stack.at(-1).children.push(block);
    this.#stack.push(block);
  }

  /** A delimiter row under the last line of a paragraph makes that line a table's head. */
  #startTable(para, text) {
    if (text.length > DELIMITER_ROW_CHARS_MAX || !text.includes("|")) return false;
    if (!/^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/.test(text)) return false;
    const cut = para.text.lastIndexOf("\n");
    const cells = splitRow(para.text.slice(cut + 1));
    const marks = splitRow(text);
    if (cells.length !== marks.length) return false;
    const aligns = marks.map((mark) => ALIGNS[`${mark.startsWith(":")}${mark.endsWith(":")}`]);
    const depth = this.#stack.length - 1;
    if (cut === -1) this.#stack[depth - 1].children.pop();
    else para.text = para.text.slice(0, cut);
    this.#open(depth, { type: "table", aligns, children: [{ type: "row", head: true, cells }], synced: 0 });
    return true;
  }

  // Blocks to DOM.

  #sync() {
    this.#syncChildren(this.#doc, this.#element);
    this.#undo.stack.forEach((block, index) => {
      const { length } = this.#undo.blocks[index];
      if (length !== undefined) block.synced = Math.max(0, length - 1);
    });
  }

  #syncChildren(block, parent) {
    for (let index = block.synced; index < block.children.length; index += 1) {
      const old = parent.childNodes[index] ?? null;
      const node = this.#render(block.children[index], old, block);
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
      default:
        this.#syncChildren(block, node);
    }
    return node;
  }

  #isOpen(block) {
    return this.#stack.at(-1) === block;
  }

  #renderInline(block, node) {
    const streaming = this.#isOpen(block);
    let text = block.text;
    if (streaming) text = text.replace(/(^|\n)\|[^\n]*(?:\n\|[-:| \t]*)?$/, ""); // perhaps a table's head
    text = text.trimEnd();
    let state = this.#states.get(node);
    if (state?.text === text && state.streaming === streaming) return;
    if (!state || !text.startsWith(state.settled)) state = { settled: "", count: 0 };
    const { nodes, safe } = parseInline(text.slice(state.settled.length), state.settled === "" ? "\n" : " ", streaming);
    patch(node, state.count, nodes);
    if (safe !== null) {
      state.count += safe.count;
      state.settled = text.slice(0, state.settled.length + safe.pos);
    }
    this.#states.set(node, { ...state, text, streaming });
  }

  #renderRow(block, node, aligns) {
    const columns = Math.max(aligns.length, block.cells.length);
    const cells = Array.from({ length: columns }, (_, index) => ({
      tag: block.head ? "th" : "td",
      attrs: aligns[index] ? { class: aligns[index] } : {},
      children: parseInline(block.cells[index] ?? "", "\n", false).nodes,
    }));
    patch(node, 0, cells);
  }

  #renderCode(block, node) {
    let state = this.#states.get(node);
    if (!state || !block.text.startsWith(state.text)) {
      const caption = element("figcaption", {}, [
        element("span", {}, [block.info || "text"]),
        element("button", { type: "button", class: "copy" }, ["Copy"]),
      ]);
      const code = element("code", {}, []);
      node.className = "code";
      node.replaceChildren(caption, element("pre", { tabindex: "0" }, [code]));
      state = { code, label: caption.firstChild, chunk: null, lines: 0, text: "" };
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
  }
}

/** Renders a whole text into an element. */
export function renderMarkdown(element, text) {
  const stream = new MarkdownStream(element);
  stream.append(text);
  stream.end();
}

const ALIGNS = { truefalse: "left", falsetrue: "right", truetrue: "center", falsefalse: null };

function tagOf(block) {
  switch (block.type) {
    case "heading":
      return `h${block.level}`;
    case "list":
      return block.start === null ? "ul" : "ol";
    default:
      return { para: "p", quote: "blockquote", item: "li", code: "figure", rule: "hr", table: "div", row: "tr" }[block.type];
  }
}

function withoutClosingMarks(heading) {
  let end = heading.length;
  while (heading[end - 1] === "#") end -= 1;
  return end === 0 || /\s/.test(heading[end - 1]) ? heading.slice(0, end).trimEnd() : heading;
}

function indentOf(line) {
  let indent = 0;
  while (line[indent] === " ") indent += 1;
  return indent;
}

function isClosingFence(line, code) {
  const fence = line.trim();
  return indentOf(line) < 4 && fence.length >= code.fence.length && fence === code.fence[0].repeat(fence.length);
}

/** True for an unfinished line that says nothing yet: it may become a marker, and would flash as text meanwhile. */
function isUndecided(tail, open) {
  if (tail.trim() === "") return true;
  if (open.type === "code") {
    const fence = tail.replace(/^[ \t>]*/, "");
    return fence !== "" && fence === open.fence[0].repeat(fence.length);
  }
  return /^[ \t>]*(?:[`~#*+_|:-]+|\d{1,9}[.)]?)[ \t]*$/.test(tail);
}

function listMarker(line, inParagraph) {
  const match = /^( *)([-+*]|(\d{1,9})([.)]))( +|$)/.exec(line);
  if (!match) return null;
  const [whole, space, marker, digits, delimiter, gap] = match;
  const empty = whole.length === line.length;
  // In the middle of a paragraph a number is more often a number than a list.
  if (inParagraph && (empty || (digits !== undefined && Number(digits) !== 1))) return null;
  const width = space.length + marker.length;
  const indent = empty || gap.length > 4 ? width + 1 : whole.length;
  return {
    kind: delimiter ?? marker,
    start: digits === undefined ? null : Number(digits),
    // Models indent by two spaces where the standard asks for the width of the marker: both nest.
    indents: { indent, indentMin: Math.min(indent, space.length + 2) },
  };
}

function splitRow(line) {
  let row = line.trim();
  if (row.startsWith("|")) row = row.slice(1);
  if (/(?:^|[^\\])(?:\\\\)*\|$/.test(row)) row = row.slice(0, -1);
  const cells = [""];
  for (const piece of row.match(/\\[^]|\||[^\\|]+|\\/g) ?? []) {
    if (piece === "|") cells.push("");
    else cells[cells.length - 1] += piece === "\\|" ? "|" : piece;
  }
  return cells.map((cell) => cell.trim());
}

// Inline text, after the delimiter algorithm of CommonMark 0.31 (appendix "A parsing strategy").

const PUNCTUATION = /[\p{P}\p{S}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const SPECIAL = /[\\`*_~[\]!<&\n]|https?:\/\//g;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const ENTITY = /&(?:(amp|lt|gt|quot|apos|nbsp)|#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6}));/y;

/**
 * Parses inline text to nodes: strings and `{ tag, attrs, children }`. While `streaming`, strong and code that are not
 * closed yet are shown as if they were, so that text does not jump when their end comes.
 *
 * `safe` says how far the result is settled whatever text may follow: `{ pos, count }`, in characters and nodes.
 */
function parseInline(text, before, streaming) {
  let tokens = [];
  let brackets = []; // open "[" and "![", innermost last
  let settling = true; // false from the first construct on that more text could still complete
  let lastMark = 0;
  let pos = 0;
  let plain = ""; // text not yet in a token

  const flush = () => {
    if (plain !== "") tokens.push(plain);
    plain = "";
  };
  const push = (token) => {
    flush();
    tokens.push(token);
  };

  while (pos < text.length) {
    SPECIAL.lastIndex = pos;
    const found = SPECIAL.exec(text);
    const end = found ? found.index : text.length;
    while (pos < end) {
      // The start of a word can be a mark: what may still change and reaches over a space is known by then.
      const from = Math.max(pos, lastMark + SETTLE_CHARS - 1);
      const space = settling && brackets.length === 0 ? text.slice(from, end - 1).indexOf(" ") : -1;
      const cut = space === -1 ? end : from + space + 1;
      plain += text.slice(pos, cut);
      pos = cut;
      if (cut < end && text[cut] !== " ") {
        lastMark = cut;
        push({ mark: cut });
      }
    }
    if (!found) break;
    const char = text[pos];
    switch (char) {
      case "\\":
        if (text[pos + 1] === "\n") {
          push({ tag: "br", attrs: {}, children: [] });
          pos += 2;
        } else if (pos + 1 < text.length && ESCAPABLE.test(text[pos + 1])) {
          plain += text[pos + 1];
          pos += 2;
        } else {
          plain += "\\";
          pos += 1;
        }
        break;
      case "\n": {
        const spaces = trailingSpaces(plain);
        plain = plain.slice(0, plain.length - spaces);
        if (spaces >= 2) push({ tag: "br", attrs: {}, children: [] });
        else plain += "\n";
        pos += 1;
        break;
      }
      case "`": {
        const length = runLength(text, pos, "`");
        const close = closingBackticks(text, pos + length, length);
        if (close !== -1) {
          push(codeNode(text.slice(pos + length, close)));
          pos = close + length;
        } else {
          settling = false;
          if (streaming) {
            if (pos + length < text.length) push(codeNode(text.slice(pos + length)));
            pos = text.length;
          } else {
            plain += text.slice(pos, pos + length);
            pos += length;
          }
        }
        break;
      }
      case "*":
      case "_":
      case "~": {
        const length = runLength(text, pos, char);
        const previous = pos === 0 ? before : lastCharacter(text, pos);
        const next = pos + length < text.length ? String.fromCodePoint(text.codePointAt(pos + length)) : "\n";
        push(delimiter(char, length, previous, next, pos, pos + length === text.length));
        pos += length;
        break;
      }
      case "!":
        if (text[pos + 1] === "[") {
          brackets.push({ index: tokenCount(), image: true, active: true, pos });
          push({ text: "![" });
          pos += 2;
        } else {
          plain += "!";
          pos += 1;
        }
        break;
      case "[":
        brackets.push({ index: tokenCount(), image: false, active: true, pos });
        push({ text: "[" });
        pos += 1;
        break;
      case "]": {
        const opener = brackets.pop();
        if (!opener) {
          plain += "]";
          pos += 1;
          break;
        }
        const target = opener.active ? linkTarget(text, pos + 1) : null;
        if (target?.open) {
          settling = false;
          if (streaming && target.hide) {
            // The address is on its way: show the words and not the brackets meanwhile.
            flush();
            tokens.splice(opener.index, 1);
            pos = text.length;
            break;
          }
        }
        if (!target || target.open) {
          plain += "]";
          pos += 1;
          break;
        }
        flush();
        const inner = resolveEmphasis(tokens.splice(opener.index).slice(1), false).nodes;
        tokens.push(linkNode(target.href, inner));
        if (!opener.image) for (const bracket of brackets) if (!bracket.image) bracket.active = false;
        pos = target.end;
        break;
      }
      case "<": {
        const auto = /<((?:https?:\/\/|mailto:)[^\s<>]*)>/y;
        auto.lastIndex = pos;
        const match = auto.exec(text);
        if (match) {
          push(linkNode(match[1], [match[1]]));
          pos += match[0].length;
        } else {
          plain += "<";
          pos += 1;
        }
        break;
      }
      case "&": {
        ENTITY.lastIndex = pos;
        const match = ENTITY.exec(text);
        plain += match ? decodeEntity(match) : "&";
        pos += match ? match[0].length : 1;
        break;
      }
      default: {
        const url = bareUrl(text, pos);
        if (url === null) {
          plain += found[0];
          pos += found[0].length;
        } else {
          push(linkNode(url, [url]));
          pos += url.length;
        }
      }
    }
  }
  flush();
  return resolveEmphasis(tokens, streaming);

  function tokenCount() {
    flush();
    return tokens.length;
  }
}

function trailingSpaces(text) {
  let start = text.length;
  while (text[start - 1] === " ") start -= 1;
  return text.length - start;
}

function runLength(text, pos, char) {
  let end = pos;
  while (text[end] === char) end += 1;
  return end - pos;
}

function closingBackticks(text, from, length) {
  for (let at = text.indexOf("`", from); at !== -1; ) {
    const found = runLength(text, at, "`");
    if (found === length) return at;
    at = text.indexOf("`", at + found);
  }
  return -1;
}

function codeNode(source) {
  let code = source.replaceAll("\n", " ");
  if (code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "") code = code.slice(1, -1);
  return { tag: "code", attrs: {}, children: [code] };
}

function lastCharacter(text, pos) {
  const code = text.charCodeAt(pos - 1);
  return code >= 0xdc00 && code <= 0xdfff && pos > 1 ? text.slice(pos - 2, pos) : text[pos - 1];
}

function delimiter(char, length, previous, next, pos, atEnd) {
  const spaceBefore = /\s/.test(previous);
  const spaceAfter = /\s/.test(next);
  const punctuationBefore = PUNCTUATION.test(previous);
  const punctuationAfter = PUNCTUATION.test(next);
  const left = !spaceAfter && (!punctuationAfter || spaceBefore || punctuationBefore);
  const right = !spaceBefore && (!punctuationBefore || spaceAfter || punctuationAfter);
  const usable = char !== "~" || length === 2;
  return {
    char,
    length,
    original: length,
    pos,
    atEnd,
    canOpen: usable && left && (char !== "_" || !right || punctuationBefore),
    canClose: usable && right && (char !== "_" || !left || punctuationAfter),
  };
}

/** Turns delimiter runs into emphasis. Returns the nodes, and how far they are settled. */
function resolveEmphasis(tokens, streaming) {
  const out = [];
  const openers = []; // { run, index in out, serial }
  const bottoms = new Map(); // kind of closer → serial below which no opener fits it
  let serial = 0;

  for (const token of tokens) {
    if (token.char === undefined) {
      out.push(token);
      continue;
    }
    if (token.canClose) {
      const kind = `${token.char}${token.canOpen}${token.original % 3}`;
      while (token.length > 0) {
        const bottom = bottoms.get(kind) ?? 0;
        let at = openers.length - 1;
        while (at >= 0 && openers[at].serial > bottom && !fits(openers[at].run, token)) at -= 1;
        if (at < 0 || openers[at].serial <= bottom) {
          bottoms.set(kind, serial);
          break;
        }
        const { run, index } = openers[at];
        const children = out.splice(index + 1);
        const depth = 1 + depthOf(children);
        openers.length = at + 1;
        if (depth > INLINE_DEPTH_MAX) {
          for (const child of children) out.push(child);
          openers.length = 0;
          break;
        }
        const used = token.length >= 2 && run.length >= 2 ? 2 : 1;
        run.length -= used;
        token.length -= used;
        if (run.length === 0) {
          out.length = index;
          openers.length = at;
        }
        const tag = token.char === "~" ? "del" : used === 2 ? "strong" : "em";
        out.push({ tag, attrs: {}, children: clean(children), depth });
      }
    }
    if (token.length > 0) {
      out.push(token);
      serial += 1;
      if (token.canOpen) openers.push({ run: token, index: out.length - 1, serial });
    }
  }
  const unsettledFrom = openers[0]?.run.pos ?? Infinity;
  if (streaming) {
    for (const { run, index } of openers.slice(-TRIAL_DEPTH_MAX).reverse()) {
      if (run.length < 2 || index === out.length - 1) continue;
      const children = out.splice(index);
      out.push({ tag: run.char === "~" ? "del" : "strong", attrs: {}, children: clean(children.slice(1)) });
    }
    if (out.at(-1)?.atEnd) out.pop();
  }

  let safe = null;
  const nodes = [];
  for (const token of out) {
    if (token.mark === undefined) addNode(nodes, token, safe?.count === nodes.length);
    else if (token.mark <= unsettledFrom) safe = { pos: token.mark, count: nodes.length };
  }
  return { nodes, safe };
}

function fits(opener, closer) {
  if (opener.char !== closer.char) return false;
  if (opener.char === "~") return true;
  const both = opener.canClose || closer.canOpen;
  return !both || (opener.original + closer.original) % 3 !== 0 || (opener.original % 3 === 0 && closer.original % 3 === 0);
}

function depthOf(nodes) {
  let depth = 0;
  for (const node of nodes) if (node.depth > depth) depth = node.depth;
  return depth;
}

/** Tokens as nodes: markers that matched nothing are text, and adjacent texts are one. */
function clean(tokens) {
  const nodes = [];
  for (const token of tokens) if (token.mark === undefined) addNode(nodes, token, false);
  return nodes;
}

function addNode(nodes, token, apart) {
  const text = typeof token === "string" ? token : token.char !== undefined ? token.char.repeat(token.length) : token.text;
  if (text === undefined) nodes.push(token);
  else if (text !== "") {
    if (!apart && typeof nodes.at(-1) === "string") nodes[nodes.length - 1] += text;
    else nodes.push(text);
  }
}

/** What follows a link's text: `{ href, end }`, null if it is none, `{ open }` if more text may complete it. */
function linkTarget(text, pos) {
  if (text[pos] !== "(") return null;
  const pattern =
    /\(\s*(?:<((?:\\.|[^<>\n\\])*)>|((?:\\.|[^\s()\\]|\((?:\\.|[^\s()\\]|\([^\s()]*\))*\))*))(?:\s+(?:"(?:\\[^]|[^"\\])*"|'(?:\\[^]|[^'\\])*'|\((?:\\[^]|[^()\\])*\)))?\s*\)/y;
  pattern.lastIndex = pos;
  const match = pattern.exec(text);
  if (match) return { href: unescapeText(match[1] ?? match[2] ?? ""), end: pattern.lastIndex };
  return { open: true, hide: !/[\s()]/.test(text.slice(pos + 1)) };
}

function bareUrl(text, pos) {
  if (pos > 0 && /[\p{L}\p{N}]/u.test(lastCharacter(text, pos))) return null;
  const pattern = /https?:\/\/[^\s<>`*"[\]|\\]{1,2048}(?![^\s<>`*"[\]|\\])/y;
  pattern.lastIndex = pos;
  let url = pattern.exec(text)?.[0] ?? "";
  for (;;) {
    const shorter = url.replace(/[?!.,:;_~']+$/, "");
    const opened = shorter.split("(").length;
    const closed = shorter.split(")").length;
    const next = shorter.endsWith(")") && closed > opened ? shorter.slice(0, -1) : shorter;
    if (next === url) break;
    url = next;
  }
  return /^https?:\/\/[^/]/.test(url) ? url : null;
}

function unescapeText(text) {
  return text
    .replace(/\\([!-/:-@[-`{-~])/g, "$1")
    .replace(/&(?:(amp|lt|gt|quot|apos|nbsp)|#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6}));/g, (...match) => decodeEntity(match));
}

function decodeEntity([, name, decimal, hex]) {
  if (name !== undefined) return ENTITIES[name];
  const code = decimal !== undefined ? Number(decimal) : parseInt(hex, 16);
  const valid = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
  return valid ? String.fromCodePoint(code) : "\ufffd";
}

/** The address of a link if it may be followed: absolute, and http, https or mailto. The browser's parser decides. */
export function safeHref(href) {
  let url;
  try {
    url = new URL(href);
  } catch {
    return null;
  }
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

function linkNode(href, children) {
  const depth = 1 + depthOf(children);
  const inner = withoutLinks(clean(children));
  const safe = safeHref(href);
  if (safe === null) return { tag: "span", attrs: { class: "dead-link" }, children: inner, depth };
  const attrs = { href: safe, rel: "noopener noreferrer", target: "_blank" };
  return { tag: "a", attrs, children: inner.length > 0 ? inner : [safe], depth };
}

/** A link inside a link's text is not a link. */
function withoutLinks(nodes) {
  return nodes.flatMap((node) => {
    if (typeof node === "string") return [node];
    const children = withoutLinks(node.children);
    return node.tag === "a" ? children : [{ ...node, children }];
  });
}

// Nodes to DOM: what is already right is left alone, so that a selection or a click survives the next delta.

function patch(parent, from, nodes) {
  nodes.forEach((node, offset) => {
    const old = parent.childNodes[from + offset] ?? null;
    const made = patchNode(old, node);
    if (old === null) parent.append(made);
    else if (old !== made) old.replaceWith(made);
  });
  while (parent.childNodes.length > from + nodes.length) parent.lastChild.remove();
}

function patchNode(old, node) {
  if (typeof node === "string") {
    if (old?.nodeType !== Node.TEXT_NODE) return document.createTextNode(node);
    if (old.data !== node) {
      if (node.startsWith(old.data)) old.appendData(node.slice(old.data.length));
      else old.data = node;
    }
    return old;
  }
  const made = old?.localName === node.tag ? old : document.createElement(node.tag);
  for (const { name } of [...made.attributes]) if (!(name in node.attrs)) made.removeAttribute(name);
  for (const [name, value] of Object.entries(node.attrs)) setAttribute(made, name, value);
  patch(made, 0, node.children);
  return made;
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

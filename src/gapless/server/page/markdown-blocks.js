/**
 * Markdown, lines to blocks: the tree of paragraphs, lists, quotes, tables and code that a growing text says.
 *
 * Each complete line is taken once and then belongs to the tree for good. The last, unfinished line is taken on top of
 * that as if it were complete, and taken back when more of it comes.
 */

import { unescapeText } from "./markdown-inline.js";

/** Containers (quotes, lists, items) open inside one another; deeper markers are text. */
const BLOCK_DEPTH_MAX = 40;
/** A longer line is no table's delimiter row, */
const DELIMITER_ROW_CHARS_MAX = 2000;
/** and a table has no more columns: what is behind stands in the last. The browser makes a place for each in each row. */
const COLUMNS_MAX = 100;
/** Rows times columns of a table; what comes behind is text. Fifty thousand rows of two characters took half a minute. */
const PLACES_MAX = 20_000;

/** The blocks of a text that grows. Whoever shows them says with `settle()` that all of them are shown. */
export class BlockTree {
  /** The outermost block. Of a block's `children` the first `synced` will not change any more. */
  doc = { type: "doc", children: [], synced: 0 };
  #stack = [this.doc]; // the open blocks, outermost first; only these can change
  #tail = ""; // the unfinished last line
  #undo = null; // how to take the unfinished line back out of the tree

  /** Takes the next piece of text. */
  append(text) {
    this.#rollBack();
    const lines = (this.#tail + text.replaceAll("\r", "")).split("\n");
    this.#tail = lines.pop();
    for (const line of lines) this.#takeLine(line);
    this.#checkPoint();
    if (!isUndecided(this.#tail, this.#stack.at(-1))) this.#takeLine(this.#tail, "");
  }

  /** Says that the text is complete: a line that was held back or taken on trial is a line now. */
  end() {
    this.#rollBack();
    if (this.#tail !== "") this.#takeLine(this.#tail);
    this.#tail = "";
    this.#stack.length = 1;
    this.#checkPoint();
  }

  /** Says that all is shown: what no further text can change need not be looked at again. */
  settle() {
    this.#undo.stack.forEach((block, index) => {
      const { length } = this.#undo.blocks[index];
      if (length !== undefined) block.synced = Math.max(0, length - 1);
    });
  }

  /** Says whether more text may still come in this block. */
  isOpen(block) {
    return this.#stack.at(-1) === block;
  }

  // The unfinished line can only change open blocks, and of those only the text and the end of the list of children.

  #checkPoint() {
    this.#undo = {
      stack: this.#stack.slice(),
      blocks: this.#stack.map((block) => ({
        text: block.text,
        closed: block.closed,
        columns: block.columns,
        length: block.children?.length,
        last: block.children?.at(-1),
      })),
    };
  }

  #rollBack() {
    if (this.#undo === null) return;
    this.#stack = this.#undo.stack;
    this.#undo.blocks.forEach(({ text, closed, columns, length, last }, index) => {
      const block = this.#stack[index];
      block.text = text;
      block.closed = closed;
      block.columns = columns;
      if (length !== undefined) {
        block.children.length = length;
        if (length > 0) block.children[length - 1] = last;
      }
    });
    this.#undo = null;
  }

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
    if (leaf?.type === "formula") {
      const end = rest.trimEnd();
      if (end.endsWith(leaf.end)) {
        leaf.text += end.slice(0, -leaf.end.length);
        leaf.closed = true;
        stack.length = matched;
      } else leaf.text += `${rest}${lineEnd}`;
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
      if ((match = formulaStart(rest))) {
        this.#open(depth, { type: "formula", text: match.closed ? match.text : `${match.text}${match.text && lineEnd}`, mark: match.mark, end: match.end, closed: match.closed });
        if (match.closed) stack.length -= 1;
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
        rest = rest.slice(match.indents.indent);
        const task = /^\[([ xX])\][ \t]+(?=\S)/.exec(rest);
        const state = task ? (task[1] === " " ? "open" : "done") : null;
        this.#open(stack.length, { type: "item", ...match.indents, task: state, children: [], synced: 0 });
        if (task) rest = rest.slice(task[0].length);
      } else break;
      fresh = true;
      depth = stack.length;
      if (rest.trim() === "") return;
    }

    const text = rest.trimStart();
    const open = stack.at(-1);
    if (!fresh && open.type === "table" && stack[matched] === open && text.includes("|") && this.#addRow(open, text)) return;
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

  /** Returns false where the table has as many rows as it may. */
  #addRow(table, text) {
    const cells = splitRow(text);
    const columns = Math.max(table.columns, cells.length);
    if (columns * (table.children.length + 1) > PLACES_MAX) return false;
    table.columns = columns;
    table.children.push({ type: "row", cells });
    return true;
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
    this.#open(depth, { type: "table", aligns, columns: aligns.length, children: [{ type: "row", head: true, cells }], synced: 0 });
    return true;
  }
}

const ALIGNS = { truefalse: "left", falsetrue: "right", truetrue: "center", falsefalse: null };

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
  return /^[ \t>]*(?:[`~#*+_|:$\\-]+|\\\[|(?:(?:[-+*]|\d{1,9}[.)])[ \t]{1,4})+(?:\[(?:[ xX]\]?)?)?|\d{1,9}[.)]?)[ \t]*$/.test(tail);
}

const FORMULA_ENDS = { "$$": "$$", "\\[": "\\]" };

/** A line that begins a displayed formula: all of it, or more lines follow. Null for one with text behind its end. */
function formulaStart(line) {
  const match = /^ {0,3}(\$\$|\\\[)(.*)$/.exec(line);
  if (!match) return null;
  const [, mark, behind] = match;
  const end = FORMULA_ENDS[mark];
  const at = behind.indexOf(end);
  if (at === -1) return { mark, end, text: behind.trim(), closed: false };
  const closed = at > 0 && behind.slice(at + end.length).trim() === "";
  return closed ? { mark, end, text: behind.slice(0, at).trim(), closed } : null;
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
    if (piece === "|" && cells.length < COLUMNS_MAX) cells.push("");
    else cells[cells.length - 1] += piece === "\\|" ? "|" : piece;
  }
  return cells.map((cell) => cell.trim());
}

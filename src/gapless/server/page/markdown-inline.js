/**
 * Markdown, text to inline nodes: strings and `{ tag, attrs, children }` for emphasis, code, links and breaks, after the
 * delimiter algorithm of CommonMark 0.31 (appendix "A parsing strategy").
 */

/** Emphasis and links inside one another; deeper markers are text. */
const INLINE_DEPTH_MAX = 20;
/** Markers that are shown as if they were closed while the text grows. */
const TRIAL_DEPTH_MAX = 3;
/** Characters between the places at which an open paragraph may be divided into a settled and an open part. */
const SETTLE_CHARS = 256;

/** A longer formula in a line is text. */
const FORMULA_CHARS_MAX = 1000;

const SPACE = /[ \n]/;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const SPECIAL = /[\\`*_~[\]!<&\n$]|https?:\/\//g;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const ENTITY = /&(?:(amp|lt|gt|quot|apos|nbsp)|#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6}));/y;

/**
 * Parses inline text to nodes: strings and `{ tag, attrs, children }`. While `streaming`, strong and code that are not
 * closed yet are shown as if they were, so that text does not jump when their end comes.
 *
 * `safe` says how far the result is settled whatever text may follow: `{ pos, count }`, in characters and nodes.
 */
export function parseInline(text, before, streaming) {
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

  const mark = (at) => {
    lastMark = at;
    push({ mark: at });
  };

  /** As within plain text, at the start of a line, or of a word that begins with a marker. */
  const markStart = () => {
    const start = pos - lastMark >= SETTLE_CHARS && SPACE.test(text[pos - 1]) && !SPACE.test(text[pos]);
    if (start && settling && brackets.length === 0) mark(pos);
  };

  while (pos < text.length) {
    markStart();
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
      if (cut < end && text[cut] !== " ") mark(cut);
    }
    if (!found) break;
    markStart();
    const char = text[pos];
    const formula = char === "$" || char === "\\" ? formulaAt(text, pos) : null;
    if (formula?.open) settling = false;
    else if (formula) {
      push(formulaNode(formula));
      pos = formula.end;
      continue;
    }
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
        const spaces = spacesBefore(text, pos);
        if (spaces > 0) plain = plain.slice(0, -spaces);
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

function spacesBefore(text, pos) {
  let start = pos;
  while (text[start - 1] === " ") start -= 1;
  return pos - start;
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

/** The formula that begins here: `{ tex, marks, display, end }`, null for none, `{ open }` if more text may complete one. */
function formulaAt(text, pos) {
  const two = text.slice(pos, pos + 2);
  const [start, end] = { $$: ["$$", "$$"], "\\(": ["\\(", "\\)"], "\\[": ["\\[", "\\]"] }[two] ?? (two[0] === "$" ? ["$", "$"] : []);
  if (!start) return null;
  const dollar = start === "$";
  const from = pos + start.length;
  if (dollar && /\s/.test(text[from] ?? "")) return null;
  const limit = Math.min(text.length, from + FORMULA_CHARS_MAX);
  for (let at = from; at < limit; at += 1) {
    if (dollar && text[at] === "\n") return null;
    if (text.startsWith(end, at)) {
      if (dollar && (/\s/.test(text[at - 1]) || /\d/.test(text[at + 1] ?? ""))) return null; // amounts of money
      const tex = text.slice(from, at).trim();
      return tex === "" ? null : { tex, marks: [start, end], display: two === "$$" || two === "\\[", end: at + end.length };
    }
    if (text[at] === "\\") at += 1;
  }
  return limit === text.length ? { open: true } : null;
}

/** A formula as it was written; whoever can sets it. */
export function formulaNode({ tex, marks: [start, end], display }) {
  const attrs = { class: "formula", "data-tex": tex, ...(display ? { "data-display": "" } : {}) };
  return { tag: "span", attrs, children: [`${start}${tex}${end}`] };
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

/** Resolves backslash escapes and entities. */
export function unescapeText(text) {
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
function safeHref(href) {
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

/**
 * The colours of code: one pass over a text by the rules of its language, which know words, texts, numbers and comments
 * and no grammar. Every rule takes time that grows with its match alone, and what no rule knows is plain.
 */

/** A longer text has no colours: each of its words would be an element. */
const CODE_CHARS_MAX = 50_000;

const BLOCK = "/\\*[^]*?(?:\\*/|$(?![^]))";
const DOUBLE = '"(?:\\\\[^]|[^"\\\\\\n])*"?';
const SINGLE = "'(?:\\\\[^]|[^'\\\\\\n])*'?";
const BACK = "`(?:\\\\[^]|[^`\\\\])*`?";
const TRIPLE = '[A-Za-z]{0,2}(?:"""[^]*?(?:"""|$(?![^]))|\'\'\'[^]*?(?:\'\'\'|$(?![^])))';
const NUMBER = "(?<![\\w$])(?:0[xX][\\da-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|\\d[\\d_]*(?:\\.\\d[\\d_]*)?(?:[eE][+-]?\\d+)?)[A-Za-z%]{0,4}(?!\\w)";
const WORD = "[\\p{L}_$][\\p{L}\\p{N}_$]*";

const words = (text) => new Set(text.split(" "));
const CONSTANTS = words("true false null undefined None True False nil NaN Infinity NULL");

const C_WORDS =
  "abstract as async await break case catch class const continue debugger default defer delete do else enum export extends extern final finally for " +
  "from func fun function get go goto guard if impl implements import in inline instanceof interface is let loop match mod module mut namespace new " +
  "of operator override package private protected pub public range ref return sealed select set sizeof static struct super switch template this throw " +
  "throws trait try type typedef typeof typename union unsafe use using val var virtual void volatile when where while with yield constexpr internal " +
  "readonly record self Self dyn move crate fn map chan auto bool boolean byte char double float int long short signed unsigned string uint";
const PYTHON_WORDS =
  "and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or " +
  "pass raise return try type while with yield self";
const SHELL_WORDS = "if then else elif fi for while until do done case esac in function return export local readonly set unset source exit alias cd echo sudo";
const RUBY_WORDS =
  "alias and begin break case class def defined do else elsif end ensure extend for if in include module next not or raise redo require rescue retry " +
  "return self super then undef unless until when while yield";
const LUA_WORDS = "and break do else elseif end for function goto if in local not or repeat return then until while where let data instance of module import case";
const SQL_WORDS =
  "add all alter and any as asc begin between by case cast check column commit constraint create cross database default delete desc distinct drop else " +
  "end except exists explain foreign from full function grant group having if in index inner insert intersect into is join key left like limit not " +
  "offset on or order outer over partition primary references returning right rollback select set table then transaction trigger union unique update " +
  "using values view when where with integer text varchar timestamp boolean numeric serial bigint jsonb";

const plainWords = (keywords, { anyCase = false } = {}) => ({ word: words(keywords), anyCase });
const C = { rules: [["comment", `//[^\\n]*|${BLOCK}`], ["string", `${DOUBLE}|${SINGLE}|${BACK}`], ["type", "@[\\w.]+|^[ \\t]*#\\w+"], ["number", NUMBER]], ...plainWords(C_WORDS) };
const HASHED = [["comment", "#[^\\n]*"], ["string", `${TRIPLE}|[A-Za-z]{0,2}(?:${DOUBLE}|${SINGLE})`], ["type", "@[\\w.]+"], ["number", NUMBER]];
const PYTHON = { rules: HASHED, ...plainWords(PYTHON_WORDS) };
const RUBY = { rules: [["comment", "#[^\\n]*"], ["string", `${DOUBLE}|${SINGLE}|(?<!:):\\w+`], ["type", "@{1,2}\\w+"], ["number", NUMBER]], ...plainWords(RUBY_WORDS) };
const SHELL = {
  rules: [["comment", "(?<![^\\s;])#[^\\n]*"], ["string", `"(?:\\\\[^]|[^"\\\\])*"?|'[^']*'?`], ["type", "\\$(?:\\{[^}\\n]*\\}?|\\w+|[?!#@*$])"], ["function", "(?<![\\w-])--?[A-Za-z][\\w-]*"], ["number", NUMBER]],
  ...plainWords(SHELL_WORDS),
};
const SQL = { rules: [["comment", `--[^\\n]*|${BLOCK}`], ["string", `${SINGLE}|${DOUBLE}`], ["number", NUMBER]], ...plainWords(SQL_WORDS, { anyCase: true }) };
const LUA = { rules: [["comment", "--[^\\n]*"], ["string", `${DOUBLE}|${SINGLE}`], ["number", NUMBER]], ...plainWords(LUA_WORDS) };
const JSON_LIKE = { rules: [["comment", `//[^\\n]*|${BLOCK}`], ["function", '"(?:\\\\.|[^"\\\\\\n])*"(?=[ \\t]*:)'], ["string", DOUBLE], ["number", `-?${NUMBER}`]], ...plainWords("") };
const YAML = { rules: [["comment", "(?<![^\\s])#[^\\n]*"], ["function", "^[ \\t]*(?:- +)*[\\w.$/-]+(?=:(?:\\s|$))"], ["string", `${DOUBLE}|${SINGLE}`], ["type", "(?<![\\w.])[&*!][\\w.-]+|^---$"], ["number", NUMBER]], ...plainWords("yes no on off") };
const TOML = { rules: [["comment", "[#;][^\\n]*"], ["type", "^[ \\t]*\\[[^\\n]*\\]"], ["function", "^[ \\t]*[\\w.\"-]+(?=[ \\t]*=)"], ["string", `${TRIPLE}|${DOUBLE}|${SINGLE}`], ["number", NUMBER]], ...plainWords("") };
const XML = {
  rules: [["comment", "<!--[^]*?(?:-->|$(?![^]))"], ["keyword", "</?[\\w:.-]+|/?>|<[!?][\\w-]+"], ["function", "(?<=\\s)[\\w:@.-]+(?==)"], ["string", "(?<==)(?:\"[^\"]*\"?|'[^']*'?)"], ["number", "&#?\\w+;"]],
  word: new Set(), plain: true,
};
const CSS = {
  rules: [["comment", `${BLOCK}|//[^\\n]*`], ["string", `${DOUBLE}|${SINGLE}`], ["keyword", "@[\\w-]+|![a-z]+"], ["function", "(?<![\\w-])(?:--)?[a-z-]+(?=[ \\t]*:[^:])|(?<![\\w-])[\\w-]+(?=\\()"], ["type", "[.#][A-Za-z][\\w-]*"], ["number", `#[\\da-fA-F]{3,8}\\b|${NUMBER}`]],
  word: new Set(), plain: true,
};
const DIFF = { rules: [["comment", "^(?:diff|index|---|\\+\\+\\+)[^\\n]*"], ["type", "^@@[^\\n]*"], ["inserted", "^\\+[^\\n]*"], ["deleted", "^-[^\\n]*"]], word: new Set(), plain: true };
const HTTP = { rules: [["keyword", "^(?:GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS|HTTP/[\\d.]+)(?=\\s)"], ["function", "^[\\w-]+(?=:)"], ["string", DOUBLE], ["number", NUMBER]], word: new Set(), plain: true };

const LANGUAGES = new Map();
const named = (language, names) => {
  for (const name of names.split(" ")) LANGUAGES.set(name, language);
};
named(C, "js javascript jsx mjs cjs ts typescript tsx java c h cpp c++ cc hpp cs csharp c# go golang rust rs kotlin kt swift scala dart php zig groovy objc proto protobuf graphql solidity v verilog glsl");
named(PYTHON, "python py python3 pyi nim mojo starlark");
named(RUBY, "ruby rb crystal elixir ex exs perl pl");
named(SHELL, "sh bash shell zsh fish console shell-session powershell ps1 dockerfile docker makefile make nginx terraform hcl cmake r julia jl");
named(SQL, "sql mysql postgresql postgres sqlite plsql");
named(LUA, "lua haskell hs elm ada");
named(JSON_LIKE, "json jsonc json5 jsonl ndjson");
named(YAML, "yaml yml");
named(TOML, "toml ini conf cfg properties env dotenv");
named(XML, "html xml svg xhtml vue svelte rss mathml");
named(CSS, "css scss sass less");
named(DIFF, "diff patch");
named(HTTP, "http");

const patterns = new Map(); // language → its rules as one pattern

/** The pieces of a text as `[kind, text]`, kind "" for plain; null where the language is not known. */
export function colours(text, info) {
  const language = LANGUAGES.get(info.toLowerCase());
  if (!language || text.length > CODE_CHARS_MAX) return null;
  if (!patterns.has(language)) patterns.set(language, patternOf(language));
  const pattern = patterns.get(language);
  const pieces = [];
  const put = (kind, piece) => {
    if (piece === "") return;
    if (pieces.at(-1)?.[0] === kind) pieces.at(-1)[1] += piece;
    else pieces.push([kind, piece]);
  };
  let pos = 0;
  pattern.lastIndex = 0;
  for (let match; (match = pattern.exec(text)) && match[0] !== ""; ) {
    put("", text.slice(pos, match.index));
    pos = match.index + match[0].length;
    const at = match.findIndex((group, index) => index > 0 && group !== undefined) - 1;
    put(language.rules[at]?.[0] ?? kindOfWord(match[0], language, text[pos]), match[0]);
  }
  put("", text.slice(pos));
  return pieces;
}

function patternOf({ rules, plain }) {
  const groups = rules.map(([, source]) => `(${source})`);
  return new RegExp([...groups, ...(plain ? [] : [`(${WORD})`])].join("|"), "gmu");
}

function kindOfWord(word, language, next) {
  if (language.word.has(language.anyCase ? word.toLowerCase() : word)) return "keyword";
  if (CONSTANTS.has(word)) return "number";
  if (next === "(") return "function";
  return /^\p{Lu}/u.test(word) && /\p{Ll}/u.test(word) ? "type" : "";
}

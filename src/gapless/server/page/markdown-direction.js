/** The direction that a block of Markdown is written in. */

/** So many characters at the beginning of a text, and so many items, rows or cells, are looked at for the first letter. */
const CHARS_MAX = 500;
const PARTS_MAX = 20;
/** What is written alike in every language: code, formulas, addresses, entities. */
const ALIKE = /(`+)[^`]*(?:\1|$)|\$\$?[^$\n]*(?:\$|$)|\\[([].*?(?:\\[)\]]|$)|\]\([^)]*\)?|<?https?:\/\/\S*|&#?\w+;/g;
const LETTER = /\p{L}/u;
const FROM_THE_RIGHT =
  /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Samaritan}\p{Script=Mandaic}\p{Script=Adlam}\p{Script=Hanifi_Rohingya}]/u;

/** Finds the direction of the first letter of a block and of what is in it: "ltr" or "rtl", undefined where there is none. */
export function directionOf(block) {
  if (block.type === "code" || block.type === "formula") return undefined;
  if (block.text !== undefined) return directionIn(block.text);
  for (const part of (block.cells ?? block.children ?? []).slice(0, PARTS_MAX)) {
    const found = typeof part === "string" ? directionIn(part) : directionOf(part);
    if (found) return found;
  }
  return undefined;
}

function directionIn(text) {
  const [letter] = LETTER.exec(text.slice(0, CHARS_MAX).replace(ALIKE, "")) ?? [];
  return letter && (FROM_THE_RIGHT.test(letter) ? "rtl" : "ltr");
}

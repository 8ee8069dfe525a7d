import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch } from "./browser.mjs";
import { MockServer } from "./mock.mjs";

let browser;
let server;
let page;

before(async () => {
  server = await new MockServer().start();
  browser = await launch();
  page = await browser.newPage();
  await page.goto(`${server.url}static/icon.svg`); // the origin of the modules, and no page of its own
  await page.goto(server.url);
  await page.evaluate(async () => {
    const { MarkdownStream, renderMarkdown } = await import("./static/markdown.js");
    globalThis.whole = (text) => {
      const node = document.createElement("div");
      renderMarkdown(node, text);
      node.normalize(); // a long paragraph is divided into text nodes, which is nobody's business
      return node;
    };
    globalThis.pieces = (text, lengths) => {
      const node = document.createElement("div");
      const stream = new MarkdownStream(node);
      let index = 0;
      for (let pos = 0; pos < text.length; index += 1) {
        const length = lengths[index % lengths.length];
        stream.append(text.slice(pos, pos + length));
        pos += length;
      }
      stream.end();
      node.normalize();
      return node;
    };
  });
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

const html = (text) => page.evaluate((it) => whole(it).innerHTML, text);
const A = (href, text) => `<a href="${href}" rel="noopener noreferrer" target="_blank">${text}</a>`;
const CODE = (language, ...chunks) =>
  `<figure class="code"><figcaption><span>${language}</span><button type="button" class="copy">Copy</button></figcaption>` +
  `<pre tabindex="0"><code>${chunks.map((it) => `<span class="chunk">${it}</span>`).join("")}</code></pre></figure>`;

const F = (tex, source, display = false) => `<span class="formula" data-tex="${tex}"${display ? ' data-display=""' : ""}>${source}</span>`;

const CASES = {
  paragraphs: ["a\nb\n\nc", "<p>a\nb</p><p>c</p>"],
  headings: ["# a\n## b ##\n####### c\n#d", "<h1>a</h1><h2>b</h2><p>####### c\n#d</p>"],
  "a heading between paragraphs": ["a\n### b\nc", "<p>a</p><h3>b</h3><p>c</p>"],
  emphasis: ["*a* **b** ***c*** _d_ __e__ ~~f~~ ~g~", "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <em>d</em> <strong>e</strong> <del>f</del> ~g~</p>"],
  "emphasis nested": ["**a *b* c** *d **e** f*", "<p><strong>a <em>b</em> c</strong> <em>d <strong>e</strong> f</em></p>"],
  "no emphasis": ["2 * 3 * 4, snake_case_name, * a*, **", "<p>2 * 3 * 4, snake_case_name, * a*, **</p>"],
  "emphasis left open": ["**a *b", "<p>**a *b</p>"],
  "code spans": ["`a` ``b`c`` ` `` ` `*d*`", "<p><code>a</code> <code>b`c</code> <code>``</code> <code>*d*</code></p>"],
  "a code span left open": ["a `b *c*", "<p>a `b <em>c</em></p>"],
  escapes: ["\\*a\\* \\` \\[b](c) \\q", "<p>*a* ` [b](c) \\q</p>"],
  entities: ["&lt;b&gt; &amp; &#169; &#x1F600; &nope; &#0;", "<p>&lt;b&gt; &amp; © 😀 &amp;nope; \ufffd</p>"],
  "hard breaks": ["a  \nb\\\nc", "<p>a<br>b<br>c</p>"],
  "a hard break where a long paragraph is divided": [`${"x".repeat(255)}  \ny`, `<p>${"x".repeat(255)}<br>y</p>`],
  "HTML is text": ["<b>a</b> <script>x</script>", "<p>&lt;b&gt;a&lt;/b&gt; &lt;script&gt;x&lt;/script&gt;</p>"],
  links: ['[a](https://e.org/x "t") [*b*](<https://e.org/y z>) [c](mailto:a@e.org)', `<p>${A("https://e.org/x", "a")} ${A("https://e.org/y%20z", "<em>b</em>")} ${A("mailto:a@e.org", "c")}</p>`],
  "links with parentheses": ["[a](https://e.org/x_(y)) ([b](https://e.org/))", `<p>${A("https://e.org/x_(y)", "a")} (${A("https://e.org/", "b")})</p>`],
  "a link in a link": ["[a [b](https://e.org/) c](https://f.org/)", `<p>[a ${A("https://e.org/", "b")} c](${A("https://f.org/", "https://f.org/")})</p>`],
  "bare URLs": ["see https://e.org/a_b_c. (http://e.org/x(y)) <https://e.org/>", `<p>see ${A("https://e.org/a_b_c", "https://e.org/a_b_c")}. (${A("http://e.org/x(y)", "http://e.org/x(y)")}) ${A("https://e.org/", "https://e.org/")}</p>`],
  "a bare URL in strong": ["**https://e.org/a**", `<p><strong>${A("https://e.org/a", "https://e.org/a")}</strong></p>`],
  "brackets that are no link": ["[a] [b](c d) a[0] [", "<p>[a] [b](c d) a[0] [</p>"],
  "images are links": ["![cat](https://e.org/c.png)", `<p>${A("https://e.org/c.png", "cat")}</p>`],
  "dead links": ["[a](javascript:x) [b](/c) [d](#e)", '<p><span class="dead-link">a</span> <span class="dead-link">b</span> <span class="dead-link">d</span></p>'],
  lists: ["- a\n- b\n\n* c\n\ntext", "<ul><li><p>a</p></li><li><p>b</p></li></ul><ul><li><p>c</p></li></ul><p>text</p>"],
  "ordered lists": ["3. a\n4. b\n\n1) c", '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol><ol><li><p>c</p></li></ol>'],
  "lists nested": ["- a\n  - b\n    1. c\n- d", "<ul><li><p>a</p><ul><li><p>b</p><ol><li><p>c</p></li></ol></li></ul></li><li><p>d</p></li></ul>"],
  "lists nested by two spaces under a number": ["1. a\n  - b\n2. c", "<ol><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ol>"],
  "paragraphs and code in items": ["- a\n\n  b\n  ```\n  x\n    y\n  ```\n- c", `<ul><li><p>a</p><p>b</p>${CODE("text", "x\n  y\n")}</li><li><p>c</p></li></ul>`],
  "a number in a paragraph": ["in\n1984. a\n1. b", "<p>in\n1984. a</p><ol><li><p>b</p></li></ol>"],
  quotes: ["> a\n> # b\nlazy\n\n> > c", "<blockquote><p>a</p><h1>b</h1></blockquote><p>lazy</p><blockquote><blockquote><p>c</p></blockquote></blockquote>"],
  "a quote goes on lazily": ["> a\nb\n\nc", "<blockquote><p>a\nb</p></blockquote><p>c</p>"],
  rules: ["---\n***\n_ _ _\na\n---\nb", "<hr><hr><hr><p>a</p><hr><p>b</p>"],
  "fenced code": ["```python title\n*a*\n\n  <b>\n```\n~~~\n```\n~~~", CODE("python", "*a*\n\n  &lt;b&gt;\n") + CODE("text", "```\n")],
  "code in its colours": ["```python\n@a\ndef f(x: int) -> str:  # yes\n    return \"no\" if x > 1.5 else None\n```", CODE("python", '<span class="type">@a</span>\n<span class="keyword">def</span> <span class="function">f</span>(x: int) -&gt; str:  <span class="comment"># yes</span>\n    <span class="keyword">return</span> <span class="string">"no"</span> <span class="keyword">if</span> x &gt; <span class="number">1.5</span> <span class="keyword">else</span> <span class="number">None</span>\n')],
  "a comment of several lines": ["```js\n/* a\nb */ x\n```", CODE("js", '<span class="comment">/* a\n</span><span class="comment">b */</span> x\n')],
  "a difference": ["```diff\n-a\n+b\n```", CODE("diff", '<span class="deleted">-a</span>\n<span class="inserted">+b</span>\n')],
  tasks: ["- [ ] a\n- [x] *b*\n  - [X] c\n- [x]d\n- [ ]\n1. [ ] e", '<ul><li data-task="open"><p>a</p></li><li data-task="done"><p><em>b</em></p><ul><li data-task="done"><p>c</p></li></ul></li><li><p>[x]d</p></li><li><p>[ ]</p></li></ul><ol><li data-task="open"><p>e</p></li></ol>'],
  "formulas in a line": ["so $a_1 *b* $ no, $a_1*b*c$ and \\(x\\), $5 and $6, \\$a $$y$$", `<p>so $a_1 <em>b</em> $ no, ${F("a_1*b*c", "$a_1*b*c$")} and ${F("x", "\\(x\\)")}, $5 and $6, $a ${F("y", "$$y$$", true)}</p>`],
  "formulas of their own": ["a\n$$\n- x\n+ \\frac{1}{2}\n$$\nb\n\\[ z \\]\n\n- c\n  $$y$$", `<p>a</p><p>${F("- x\n+ \\frac{1}{2}", "$$- x\n+ \\frac{1}{2}$$", true)}</p><p>b</p><p>${F("z", "\\[z\\]", true)}</p><ul><li><p>c</p><p>${F("y", "$$y$$", true)}</p></li></ul>`],
  "a formula left open": ["$$\na\n\nb $x", "<p>$$\na</p><p>b $x</p>"],
  "code left open": ["```js\na", CODE("js", "a\n")],
  "code of many lines": [`\`\`\`\n${"x\n".repeat(65)}\`\`\``, CODE("text", "x\n".repeat(64), "x\n")],
  tables: ["| a | *b* | c |\n|:-|-:|:-:|\n| 1 | 2 \\| 3 |\n| `x` | y | z | w |\n\nafter", '<div class="table"><table><tr><th class="left">a</th><th class="right"><em>b</em></th><th class="center">c</th></tr><tr><td class="left">1</td><td class="right">2 | 3</td></tr><tr><td class="left"><code>x</code></td><td class="right">y</td><td class="center">z</td><td>w</td></tr></table></div><p>after</p>'],
  "rows that lack cells": ["|a|b|c|\n|-|-|-|\n|1|\n|\n", '<div class="table"><table><tr><th>a</th><th>b</th><th>c</th></tr><tr><td>1</td></tr><tr><td></td></tr></table></div>'],
  "a table of too many rows": [`|a|${"b|".repeat(99)}\n|${"-|".repeat(100)}\n${"|\n".repeat(201)}`, `<div class="table"><table><tr><th>a</th>${"<th>b</th>".repeat(99)}</tr>${"<tr><td></td></tr>".repeat(199)}</table></div><p>|\n|</p>`],
  "a row of too many cells": [`|a|\n|-|\n${"|b".repeat(102)}|`, `<div class="table"><table><tr><th>a</th></tr><tr>${"<td>b</td>".repeat(99)}<td>b|b|b</td></tr></table></div>`],
  "a table under a line of text": ["text\na | b\n--|--\n1 | 2\nno row", '<p>text</p><div class="table"><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table></div><p>no row</p>'],
  "pipes that are no table": ["| a |\n| b | c |", "<p>| a |\n| b | c |</p>"],
  "Windows line ends": ["a\r\n\r\nb\r\n", "<p>a</p><p>b</p>"],
  "code spans before emphasis": ["*a `b* c`", "<p>*a <code>b* c</code></p>"],
  "words beyond ASCII": ["**漢字** _ü_ «*a*»", "<p><strong>漢字</strong> <em>ü</em> «<em>a</em>»</p>"],
};

for (const [name, [text, expected]] of Object.entries(CASES)) {
  test(`markdown: ${name}`, async () => assert.equal(await html(text), expected));
}

test("markdown: an outermost block goes where its first letter does; code, formulas and addresses say nothing", async () => {
  const blocks = ["`a` $b$ שלום", "# \\(a\\) مرحبا", "- `a`\n  - שלום", "> ```\n> a\n> ```\n> שלום", "|1|שלום|\n|-|-|\n|a|b|", "[1](https://e.org) שלום", "123 שלום", "a שלום", "```\nשלום\n```", "$$\nש\n$$", "- a\n- שלום", "---", "1 + 1"];
  for (const text of blocks.map((_, index) => blocks.slice(index).join("\n\n<!-- -->\n\n"))) {
    for (const make of ["whole", "pieces"]) {
      const found = await page.evaluate(([it, how]) => [...(how === "whole" ? whole(it) : pieces(it, [1, 3])).querySelectorAll("[dir]")].map((node) => `${node.localName} ${node.dir} ${node.parentNode.parentNode === null}`), [text, make]);
      const expected = ["p", "h1", "ul", "blockquote", "div", "p", "p"].map((it) => `${it} rtl true`);
      assert.deepEqual(found, expected.slice(blocks.length - text.split("<!-- -->").length), text);
    }
  }
});

test("markdown: each case streamed in pieces of any size ends as the whole", async () => {
  const failures = await page.evaluate(
    (texts) =>
      texts.flatMap((text) =>
        [[1], [2], [3], [5], [1, 7, 2]].flatMap((lengths) => {
          const [expected, actual] = [whole(text).innerHTML, pieces(text, lengths).innerHTML];
          return expected === actual ? [] : [{ text, lengths, expected, actual }];
        }),
      ),
    Object.values(CASES).map(([text]) => text),
  );
  assert.deepEqual(failures, []);
});

test("markdown: random texts in random pieces end as the whole", async () => {
  const failure = await page.evaluate((parts) => {
    for (let seed = 1; seed <= 6000; seed += 1) {
      let state = seed;
      const random = (below) => Math.floor((((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 8) / 2 ** 24) * below);
      let text = "";
      // Some seeds make paragraphs long enough to be settled piece by piece.
      const size = seed % 10 === 0 ? 200 : 30;
      for (let i = random(size); i >= 0; i -= 1) text += parts[random(parts.length)];
      if (seed % 20 === 0) text = text.replaceAll("\n", " ");
      const lengths = Array.from({ length: 7 }, () => 1 + random(12));
      const [expected, actual] = [whole(text).innerHTML, pieces(text, lengths).innerHTML];
      if (expected !== actual) return { seed, text, lengths, expected, actual };
    }
    return null;
  }, ["a", "b ", " ", "word ", "longer words here ", "\n", "\n", "\n\n", "*", "**", "_", "~~", "`", "``", "```\n", "```py\n", "[", "]", "(", ")", "](https://e.org)", "https://e.org/x", "<", ">", "> ", "- ", "  - ", "1. ", "    ", "# ", "---", "|", "| a | b |\n", "|--|--|\n", "\\", "  \n", "&amp;", "!", "é", "🙂", "\t", "~~~\n", ":", "| -- | :-: |", "so many words ".repeat(20), `${"x".repeat(255)}  \n`, "[a](https://e.org '", "')", "$", "$$", "$$\n", "\\(", "\\)", "\\[", "\\]", "[ ] ", "[x] "]);
  assert.equal(failure, null);
});

test("markdown: a long text in slices, and a long paragraph in pieces, end as the whole", async () => {
  const long = "**so many [words](https://e.org) with *a* `b` ".repeat(700);
  const found = await page.evaluate(async ([texts, long]) => {
    const { MarkdownStream } = await import("./static/markdown.js");
    const node = document.createElement("div");
    const stream = new MarkdownStream(node, { sliceMs: 0 });
    const text = [...texts, long, ...texts].join("\n\n");
    stream.append(text);
    const behind = [stream.behind];
    stream.end();
    behind.push(stream.behind);
    while (stream.behind) stream.goOn();
    node.normalize();
    const open = whole(`${"[a *b ".repeat(3000)}c*](https://e.org)`);
    return { behind, sliced: node.innerHTML === whole(text).innerHTML, inPieces: pieces(long, [997, 3]).innerHTML === whole(long).innerHTML, open: open.querySelectorAll("em").length };
  }, [Object.values(CASES).map(([text]) => text), long]);
  assert.deepEqual(found, { behind: [true, true], sliced: true, inPieces: true, open: 1 });
});

test("markdown: nothing in the text becomes a script, a handler or another scheme", async () => {
  const attacks = [
    "<script>hit()</script>", "<img src=x onerror=hit()>", "<svg/onload=hit()>", "<iframe srcdoc='<script>hit()</script>'>", "<a href=javascript:hit()>x</a>",
    "[x](javascript:hit())", "[x](JaVaScRiPt:hit())", "[x](java\tscript:hit())", "[x](<java\nscript:hit()>)", "[x](&#106;avascript:hit())", "[x](javascript&colon;hit())",
    "[x](&#x6A;avascript&#58;hit())", "[x](\\javascript:hit())", "[x](java\\script:hit())", "[x]( javascript:hit())", "[x](\u0001javascript:hit())", "[x](\u00a0javascript:hit())",
    "[x](data:text/html,<script>hit()</script>)", "[x](vbscript:hit())", "[x](file:///etc/passwd)", "[x](blob:https://e.org/1)", "[x](//e.org)", "[x](https:javascript:hit())",
    "![x](javascript:hit())", "![x](https://e.org/x.png\" onerror=\"hit())", "<javascript:hit()>", "<https://e.org/\"onclick=\"hit()>", "https://e.org/\"onmouseover=\"hit()",
    "[x](https://e.org/\"onclick=hit()//)", "[x](https://e.org \"\\\" onclick=hit()\")", "[<img src=x onerror=hit()>](https://e.org)", "[x](view-source:https://e.org)",
    "```<script>hit()</script>\nx\n```", "```\"><img/src/onerror=hit()>\nx", "# <img src=x onerror=hit()>", "| <img src=x onerror=hit()> |\n|--|\n| <script>hit()</script> |",
    "- <details open ontoggle=hit()>", "> <style>@import 'x'</style>", "`<img src=x onerror=hit()>`", "[x](mailto:a@e.org?\"onclick=hit())", "&lt;script&gt;hit()&lt;/script&gt;", "<form action=javascript:hit()><button>",
    "[__proto__](https://e.org)", "<math><mtext></form><form><mglyph><style></math><img src onerror=hit()>", "\u2028<script>hit()</script>", "[x](https://e.org/\u202ehit)",
  ];
  const report = await page.evaluate((texts) => {
    const tags = new Set("P H1 H2 H3 H4 H5 H6 EM STRONG DEL CODE PRE FIGURE FIGCAPTION BUTTON SPAN BR HR UL OL LI BLOCKQUOTE DIV TABLE TR TH TD A".split(" "));
    const attributes = new Set("class href rel target start tabindex type".split(" "));
    let hits = 0;
    globalThis.hit = () => (hits += 1);
    const bad = [];
    for (const text of texts) {
      for (const node of [whole(text), pieces(text, [1])]) {
        document.body.append(node);
        for (const it of node.querySelectorAll("*")) {
          if (!tags.has(it.tagName)) bad.push([text, it.tagName]);
          for (const { name } of it.attributes) if (!attributes.has(name)) bad.push([text, name]);
          if (it.tagName === "A") {
            if (!["http:", "https:", "mailto:"].includes(it.protocol) || !it.rel.includes("noopener")) bad.push([text, it.href]);
          }
          if (it.matches("a, button, span")) {
            it.addEventListener("click", (event) => event.preventDefault());
            it.click();
          }
        }
        node.remove();
      }
    }
    return { bad, hits };
  }, attacks);
  assert.deepEqual(report, { bad: [], hits: 0 });
});

test("markdown: texts made to be slow are not", { timeout: 100_000 }, async () => {
  // Each would take minutes with a quadratic algorithm; the test's own timeout is the judge.
  const n = 50_000;
  const texts = ["*a ", "**a *b ", "a**b", "[", "![", "[a](", "](", "`", "` `` ``` ", "_a_ ", "<", "&", "\\", " ", "\t", "|", "| ", "> ", "- ", "#", "~~a ", "http://", "http://a.", "*_", "a\n", "|a|\n", "((", "[a](b", "[a](b \"", "1. ", "$", "$a ", "$$\n", "\\(", "\\[\n", "- [ ] "].map((it) => it.repeat(Math.floor(n / it.length)));
  for (const text of [...texts, `[${"(".repeat(n)}`, `http://${".".repeat(n)}a`, `# a${" ".repeat(n)}b`, `a${" ".repeat(n)}\nb`, `a|b\n${"- ".repeat(n)}`, `|${"a|".repeat(900)}\n|${"-|".repeat(900)}\n${"|\n".repeat(n / 2)}`, "*a_ ".repeat(5 * n), "*a **b ".repeat(n) + "c** d*".repeat(n)]) {
    const chars = await page.evaluate((it) => whole(it).textContent.length, text);
    assert.ok(chars >= 0);
  }
});

test("markdown: code made to be slow to colour is not", { timeout: 100_000 }, async () => {
  const [n, languages] = [50_000, ["js", "py", "rb", "sh", "sql", "lua", "json", "yaml", "toml", "html", "css", "diff", "http"]];
  const parts = ["a", "a ", '"', "'", "`", '"""', "/*", "<!--", "#", "--", "- ", "0x", "1", "1.", "@", "<a", "</", "${", " ", "\n ", "a=", "a:", '"a" ', "_", "[", "é("];
  for (const language of languages) {
    const whole = await page.evaluate(async ([name, texts]) => {
      const { colours } = await import("./static/colours.js");
      return texts.every((text) => colours(text, name).map(([, piece]) => piece).join("") === text);
    }, [language, parts.map((it) => it.repeat(Math.floor(n / it.length)))]);
    assert.equal(whole, true, language);
  }
  assert.equal(await page.evaluate(async () => (await import("./static/colours.js")).colours("x", "klingon")), null);
});

test("markdown: what is settled keeps its nodes, so that a selection survives", async () => {
  const kept = await page.evaluate(async () => {
    const { MarkdownStream } = await import("./static/markdown.js");
    const node = document.createElement("div");
    const stream = new MarkdownStream(node);
    stream.append("# Title\n\nfirst **bold** text\n\n- one\n- two\n\n```\ncode\nmo");
    const before = [...node.querySelectorAll("h1, p, strong, li, code")];
    stream.append("re\n```\n\nand on **so");
    stream.append(" on**");
    return before.every((it) => node.contains(it)) && node.lastChild.innerHTML === "and on <strong>so on</strong>";
  });
  assert.equal(kept, true);
});

test("markdown: markers that are still open do not flash as text", async () => {
  const seen = await page.evaluate(async () => {
    const { MarkdownStream } = await import("./static/markdown.js");
    return ["so **bold", "so `code", "so **", "a\n\n``", "a\n\n| x | y |", "see [docs](https://e.or", "1. a\n2."].map((text) => {
      const node = document.createElement("div");
      new MarkdownStream(node).append(text);
      return node.innerHTML;
    });
  });
  assert.deepEqual(seen, [
    "<p>so <strong>bold</strong></p>",
    "<p>so <code>code</code></p>",
    "<p>so </p>",
    "<p>a</p>",
    "<p>a</p><p></p>",
    "<p>see docs</p>",
    "<ol><li><p>a</p></li></ol>",
  ]);
});

test("markdown: of a long paragraph only the open end is touched", async () => {
  const touched = await page.evaluate(async () => {
    const { MarkdownStream } = await import("./static/markdown.js");
    const node = document.createElement("div");
    const stream = new MarkdownStream(node);
    stream.append("some **bold** words and `code` here ".repeat(3000));
    const records = [];
    const observer = new MutationObserver((list) => records.push(...list));
    observer.observe(node, { childList: true, characterData: true, subtree: true });
    const first = [...node.firstChild.childNodes].slice(0, -200);
    stream.append("more ");
    stream.append("**words");
    records.push(...observer.takeRecords());
    return { length: node.textContent.length, old: records.filter((it) => first.some((n) => n.contains(it.target))).length, records: records.length };
  });
  assert.equal(touched.old, 0);
  assert.ok(touched.records > 0 && touched.records < 20, JSON.stringify(touched));
});

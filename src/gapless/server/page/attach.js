/** Files and pictures that go with the next message: picked, dropped or pasted. They travel inside of it, as AG-UI's parts. */

import { $, el } from "./dom.js";

/** What all files of a message may have together: as base64 a third more, which a server takes by default (4 MiB). */
const FILES_BYTES_MAX = 3_000_000;
const FILES_MAX = 10;
const SHOWN = /^image\/(png|jpeg|gif|webp|avif|bmp)$/;

export class Attachments {
  #files = []; // { part, bytes, node }
  #onProblem;
  #onChange;

  /** `onProblem(text)` is told of what cannot be attached, "" of nothing; `onChange()` of every change. */
  constructor({ onProblem, onChange }) {
    this.#onProblem = onProblem;
    this.#onChange = onChange;
    $("attach").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", () => {
      this.add([...$("files").files]);
      $("files").value = ""; // the same file can be picked again
    });
    $("message").addEventListener("paste", (event) => {
      if (event.clipboardData.files.length === 0) return;
      event.preventDefault();
      this.add([...event.clipboardData.files]);
    });
    const root = document.documentElement;
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      root.toggleAttribute("data-dropping", true);
    });
    addEventListener("dragleave", (event) => event.relatedTarget === null && root.toggleAttribute("data-dropping", false));
    addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      root.toggleAttribute("data-dropping", false);
      this.add([...event.dataTransfer.files]);
    });
  }

  /** The parts of the next message that are files. */
  get parts() {
    return this.#files.map(({ part }) => part);
  }

  /** Takes them all, and none stays. */
  take() {
    const parts = this.parts;
    for (const { node } of this.#files) node.remove();
    this.#files = [];
    this.#changed();
    return parts;
  }

  /** Gives back what could not be sent. */
  restore(parts) {
    for (const part of parts) this.#put(part, part.source.value.length * 0.75);
  }

  async add(files) {
    this.#onProblem("");
    for (const file of files) {
      const problem = this.#problem(file);
      if (problem) {
        this.#onProblem(problem);
        return;
      }
      try {
        const mimeType = file.type || "application/octet-stream";
        const source = { type: "data", value: await base64(file), mimeType };
        this.#put({ type: kindOf(mimeType), source, metadata: { filename: file.name } }, file.size);
      } catch {
        this.#onProblem(`${file.name} cannot be read.`);
      }
    }
    $("message").focus();
  }

  #problem({ name, size }) {
    const all = this.#files.reduce((sum, { bytes }) => sum + bytes, size);
    if (this.#files.length === FILES_MAX) return `A message takes ${FILES_MAX} files; ${name} is one more.`;
    if (size === 0) return `${name} is empty.`;
    if (all <= FILES_BYTES_MAX) return "";
    return `A message takes ${megabytes(FILES_BYTES_MAX)} of files; with ${name} it would be ${megabytes(all)}.`;
  }

  #put(part, bytes) {
    const { source, metadata } = part;
    const name = metadata?.filename || source.mimeType;
    const away = el("button", { type: "button", class: "icon", "aria-label": `Remove ${name}` }, "×");
    const picture = SHOWN.test(source.mimeType) ? el("img", { src: `data:${source.mimeType};base64,${source.value}`, alt: "" }) : null;
    const file = { part, bytes, node: el("li", { "data-testid": "attached" }, picture, el("span", {}, name), away) };
    away.addEventListener("click", () => {
      this.#files.splice(this.#files.indexOf(file), 1);
      file.node.remove();
      this.#changed();
      $("message").focus();
    });
    this.#files.push(file);
    $("attached").append(file.node);
    this.#changed();
  }

  #changed() {
    $("attached").hidden = this.#files.length === 0;
    this.#onChange();
  }
}

function kindOf(mimeType) {
  const kind = mimeType.split("/", 1)[0];
  return ["image", "audio", "video"].includes(kind) ? kind : "document";
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

/** Rounded up: what is over a limit is to look like it. */
function megabytes(bytes) {
  return `${Math.ceil(bytes / 1e5) / 10} MB`;
}

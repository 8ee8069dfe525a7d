/** Files and pictures that go with the next message: picked, dropped or pasted. They travel inside of it, as AG-UI's parts. */

import { $, el } from "./dom.js";

/** What all files of a message may have together: as base64 a third more, which a server takes by default (4 MiB). */
const FILES_BYTES_MAX = 3_000_000;
const FILES_MAX = 10;
/** So many conversations' files wait while another one is shown; then those of the one seen longest ago are forgotten. */
const KEPT_MAX = 20;
const SHOWN = /^image\/(png|jpeg|gif|webp|avif|bmp)$/;

export class Attachments {
  #tray = { id: null, files: [] }; // those of the conversation that is shown, null for one not begun: { part, bytes, node }
  #kept = new Map([[null, this.#tray]]); // conversation → its tray, the one used last at the end
  #adding = Promise.resolve();
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
      const files = [...event.clipboardData.files];
      if (files.length === 0 || saysMore(event.clipboardData.getData("text/plain"), files)) return;
      event.preventDefault();
      this.add(files);
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
    return this.#tray.files.map(({ part }) => part);
  }

  /** Takes them all, and none stays. */
  take() {
    const parts = this.parts;
    for (const { node } of this.#tray.files.splice(0)) node.remove();
    this.#changed();
    return parts;
  }

  /** Gives back what could not be sent to this conversation, null for one that is not begun. */
  restore(sessionId, parts) {
    const tray = this.#kept.get(sessionId) ?? { id: sessionId, files: [] };
    for (const part of parts) this.#put(tray, part, part.source.value.length * 0.75);
  }

  /** Shows the files of another conversation, null for one that is not begun; those of the one before wait for it. */
  show(sessionId) {
    for (const { id, files } of this.#kept.values()) if (files.length === 0) this.#kept.delete(id);
    this.#tray = this.#kept.get(sessionId) ?? { id: sessionId, files: [] };
    this.#keep(this.#tray);
    $("attached").replaceChildren(...this.#tray.files.map(({ node }) => node));
    this.#changed();
  }

  #keep(tray) {
    this.#kept.delete(tray.id);
    this.#kept.set(tray.id, tray);
    if (this.#kept.size > KEPT_MAX) this.#kept.delete(this.#kept.keys().next().value);
  }

  /** Says that the conversation that is shown has begun, and has this id. */
  begun(sessionId) {
    this.#kept.delete(this.#tray.id);
    this.#tray.id = sessionId;
    this.#keep(this.#tray);
  }

  /** Forgets the files of a conversation that is gone. */
  forget(sessionId) {
    if (sessionId === this.#tray.id) this.take();
    else this.#kept.delete(sessionId);
  }

  /** Attaches those that fit, in their order, and says which do not. */
  add(files) {
    const tray = this.#tray; // another conversation may be shown by the time they are read
    this.#adding = this.#adding.then(() => this.#add(tray, files));
    return this.#adding;
  }

  async #add(tray, files) {
    this.#onProblem("");
    const left = []; // { name, problem }
    for (const file of files) {
      let problem = problemOf(file, tray.files);
      if (!problem) {
        try {
          const mimeType = file.type || "application/octet-stream";
          const source = { type: "data", value: await base64(file), mimeType };
          this.#put(tray, { type: kindOf(mimeType), source, metadata: { filename: file.name } }, file.size);
        } catch {
          problem = `${file.name} cannot be read.`;
        }
      }
      if (problem) left.push({ name: file.name, problem });
    }
    const names = left.length > 1 ? ` Left out: ${left.map(({ name }) => name).join(", ")}.` : "";
    if (left.length > 0) this.#onProblem(`${left[0].problem}${names}`);
    $("message").focus();
  }

  #put(tray, part, bytes) {
    const { source, metadata } = part;
    const name = metadata?.filename || source.mimeType;
    const away = el("button", { type: "button", class: "icon", "aria-label": `Remove ${name}` }, "×");
    const picture = SHOWN.test(source.mimeType) ? el("img", { src: `data:${source.mimeType};base64,${source.value}`, alt: "" }) : null;
    const file = { part, bytes, node: el("li", { "data-testid": "attached" }, picture, el("span", { dir: "auto" }, name), away) };
    away.addEventListener("click", () => {
      tray.files.splice(tray.files.indexOf(file), 1);
      file.node.remove();
      this.#changed();
      $("message").focus();
    });
    tray.files.push(file);
    this.#keep(tray);
    if (tray !== this.#tray) return;
    $("attached").append(file.node);
    this.#changed();
  }

  #changed() {
    $("attached").hidden = this.#tray.files.length === 0;
    this.#onChange();
  }
}

/** What keeps a file from going with `files`, "" for nothing. */
function problemOf({ name, size }, files) {
  const all = files.reduce((sum, { bytes }) => sum + bytes, size);
  if (files.length === FILES_MAX) return `A message takes ${FILES_MAX} files; ${name} is one more.`;
  if (size === 0) return `${name} is empty.`;
  if (all <= FILES_BYTES_MAX) return "";
  return `A message takes ${megabytes(FILES_BYTES_MAX)} of files; with ${name} it would be ${megabytes(all)}.`;
}

/**
 * Whether a pasted text is what was copied: spreadsheets and office programs put a picture of it beside it. The file
 * managers of some systems put the names of files, or their paths, beside the files.
 */
function saysMore(text, files) {
  const names = new Set(files.map(({ name }) => name));
  return text.split(/\r?\n|\r/).some((line) => line.trim() !== "" && !names.has(line.trim().split(/[/\\]/).at(-1)));
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

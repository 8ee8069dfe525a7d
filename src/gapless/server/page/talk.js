/**
 * A live run: the microphone goes out and the agent's sound comes in, over one WebSocket that comes back by itself. What
 * is said in text, by either, is in the run's journal, which the page follows like any other.
 */

import { baseUrl } from "./api.js";
import { newId } from "./stream.js";

const FAILURES_MAX = 8;
const WAIT_MS = 250;
const WAIT_MS_MAX = 10_000;

export class Talk {
  #run;
  #socket = null;
  #unheard = new Map(); // what was said and is not in the run's journal yet
  #last = "0";
  #failures = 0;
  #ended = false;
  #context;
  #stream = null;
  #playing = new Set();
  #until = 0; // the time at which what is to be played ends
  #given;

  /**
   * `onError(text)` is told what goes wrong, `onSpeaking(speaking)` whether there is sound to hear, `onEnd()` of the end.
   */
  constructor({ runId, sessionId, agent, onError, onSpeaking, onEnd }) {
    this.#run = { run_id: runId, session_id: sessionId, ...(agent === undefined ? {} : { agent }) };
    this.#given = { onError, onSpeaking, onEnd };
    this.#context = new AudioContext();
  }

  /** Asks for the microphone, and calls. Throws where there is none, or nobody lets it be used. */
  async begin() {
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } });
    await this.#context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
    const microphone = new AudioWorkletNode(this.#context, "microphone", { numberOfOutputs: 0 });
    microphone.port.onmessage = ({ data }) => this.#socket?.readyState === WebSocket.OPEN && this.#socket.send(data);
    this.#context.createMediaStreamSource(this.#stream).connect(microphone);
    this.#connect();
  }

  /** What is spoken goes out, or not. */
  set muted(muted) {
    for (const track of this.#stream?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  say(text) {
    const id = newId();
    this.#send(id, { content: text, id });
  }

  /** Says that nothing more will be said: the run ends when the agent has answered. */
  hangUp() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#send("close", { close: true });
  }

  /** Leaves at once; the run is not told. */
  leave() {
    this.#ended = true;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#hush();
    this.#socket?.close();
    this.#context.close().catch(() => {});
  }

  #connect() {
    const url = new URL(`live?${new URLSearchParams({ ...this.#run, after: this.#last })}`, baseUrl);
    this.#socket = new WebSocket(url.href.replace(/^http/, "ws"));
    this.#socket.onopen = () => this.#unheard.forEach((said) => this.#socket.send(said)); // what has an id counts once
    this.#socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
    this.#socket.onclose = ({ code }) => {
      if (this.#ended) return;
      this.#failures += 1;
      if (code !== 1000 && this.#failures <= FAILURES_MAX) {
        setTimeout(() => this.#ended || this.#connect(), Math.min(WAIT_MS * 2 ** this.#failures, WAIT_MS_MAX));
        return;
      }
      if (code !== 1000) this.#given.onError("The call was lost.");
      this.leave();
      this.#given.onEnd();
    };
  }

  #send(id, said) {
    this.#unheard.set(id, JSON.stringify(said));
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(this.#unheard.get(id));
  }

  #hear({ id, data, error }) {
    [this.#last, this.#failures] = [id ?? this.#last, 0];
    if (error) {
      this.#unheard.delete(error.id); // it would be refused again
      this.#given.onError(error.message);
    }
    if (data?.role === "user") this.#unheard.delete(data.messageId.split("-said-")[1]);
    if (data?.type !== "CUSTOM") return;
    if (data.name === "gapless.audio") this.#play(data.value);
    if (data.name === "gapless.interrupted") this.#hush();
  }

  #play({ mimeType = "", data }) {
    if (!mimeType.startsWith("audio/pcm")) return;
    const bytes = Uint8Array.from(atob(data.replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
    const samples = Float32Array.from(new Int16Array(bytes.buffer, 0, bytes.length >> 1), (one) => one / 32768);
    if (samples.length === 0) return;
    const sound = this.#context.createBuffer(1, samples.length, Number(/rate=(\d+)/.exec(mimeType)?.[1] ?? 24_000));
    sound.copyToChannel(samples, 0);
    const source = this.#context.createBufferSource();
    source.buffer = sound;
    source.connect(this.#context.destination);
    this.#until = Math.max(this.#until, this.#context.currentTime);
    source.start(this.#until);
    this.#until += sound.duration;
    this.#playing.add(source);
    this.#given.onSpeaking(true);
    source.onended = () => {
      this.#playing.delete(source);
      if (this.#playing.size === 0) this.#given.onSpeaking(false);
    };
  }

  /** Drops the sound that has not been played: somebody speaks. */
  #hush() {
    for (const source of this.#playing) source.stop();
    this.#until = 0;
  }
}

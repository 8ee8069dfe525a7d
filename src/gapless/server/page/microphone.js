/** Runs where sound is made: what the microphone hears, as 16-bit samples at 16 kHz, which is what a live run takes. */

const RATE_HZ = 16_000;
/** Samples of a message: a tenth of a second. */
const SAMPLES = 1600;

class Microphone extends AudioWorkletProcessor {
  #samples = new Int16Array(SAMPLES);
  #count = 0;
  #sum = 0; // of the samples that become the next one
  #summed = 0;
  #phase = 0;

  process([[heard]]) {
    for (const sample of heard ?? []) {
      this.#sum += sample;
      this.#summed += 1;
      this.#phase += RATE_HZ;
      if (this.#phase < sampleRate) continue;
      this.#phase -= sampleRate;
      const mean = Math.max(-1, Math.min(1, this.#sum / this.#summed));
      this.#samples[this.#count] = Math.round(mean * 32767);
      this.#count += 1;
      this.#sum = this.#summed = 0;
      if (this.#count < SAMPLES) continue;
      this.port.postMessage(this.#samples.buffer, [this.#samples.buffer]);
      this.#samples = new Int16Array(SAMPLES);
      this.#count = 0;
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);

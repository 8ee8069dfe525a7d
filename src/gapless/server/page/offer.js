/**
 * A message that is typed while the run waits for an answer may be the answer, or something else: whoever types it is
 * asked which.
 */

import { $, el } from "./dom.js";

/** Asks. `typed` is what the message can be as an answer, `{ label, send(text) }`, or null; `onLeave()` sends it as a message. */
export function offer(text, typed, { onAnswered, onLeave }) {
  const panel = $("offer");
  const choose = (done) => () => {
    withdraw();
    done();
  };
  const button = (name, testid, done, primary) => {
    const node = el("button", { type: "button", class: primary ? "primary" : null, "data-testid": testid }, name);
    node.addEventListener("click", choose(done));
    return node;
  };
  const answer = () => {
    if (typed.send(text) !== false) onAnswered();
  };
  panel.replaceChildren(
    el("p", {}, typed ? "A question waits for your answer." : "A question waits for an answer that this message cannot be."),
    el("div", { class: "buttons" },
      ...(typed ? [button(typed.label, "offer-answer", answer, true)] : []),
      button("Leave the question and go on", "offer-leave", onLeave, !typed),
      button("Back", "offer-back", () => $("message").focus(), false)),
  );
  panel.hidden = false;
  panel.querySelector("button").focus();
}

export function withdraw() {
  const panel = $("offer");
  if (panel.hidden) return;
  if (panel.contains(document.activeElement)) $("message").focus();
  panel.hidden = true;
  panel.replaceChildren();
}

/** What the page says about itself: how the connection is, what went wrong, and what a screen reader is told. */

import { $ } from "./dom.js";
import { StreamError } from "./stream.js";

const CONNECTION_TEXTS = {
  idle: "",
  connecting: "Connecting…",
  open: "Connected",
  reconnecting: "Reconnecting…",
  lost: "No connection",
};

export function showConnection(state) {
  const node = $("connection");
  if (node.dataset.state === state) return;
  const before = node.dataset.state;
  node.dataset.state = state;
  $("connection-text").textContent = CONNECTION_TEXTS[state];
  if (state === "reconnecting" || state === "lost") announce(CONNECTION_TEXTS[state]);
  else if (before === "reconnecting") announce("Connected again");
}

/** For screen readers: the growing answer itself is not a live region, or it would be read out word by word. */
export function announce(text) {
  $("live").textContent = text;
}

/** `away`: it is only that the server cannot be reached, and to be taken back once it can. */
export function showAlert(text, away = false) {
  $("alert").textContent = text;
  $("alert").hidden = text === "";
  $("alert").toggleAttribute("data-away", away);
}

/** The server has answered: that it could not be reached is no longer so. */
export function reached() {
  if ($("alert").hasAttribute("data-away")) showAlert("");
}

export function awayIs(error) {
  return !(error instanceof StreamError);
}

export function describe(error) {
  if (error instanceof StreamError) return `${error.message} (${error.code})`;
  return "The server cannot be reached.";
}

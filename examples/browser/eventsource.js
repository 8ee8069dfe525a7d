/** With what every browser has. It reconnects by itself, and the ids say where to go on: nothing is lost or repeated. */
export function ask(message, show) {
  const url = `/agents/chat/stream?${new URLSearchParams({ query: message, run_id: crypto.randomUUID() })}`;
  sessionStorage.setItem("answer", url); // until it has been shown whole
  return read(url, show);
}

/** For a page that was loaded anew in mid-answer: the same URL is the same run, from its start. Else it does nothing. */
export async function resume(show) {
  const url = sessionStorage.getItem("answer");
  if (url) await read(url, show);
}

function read(url, show) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(url);
    source.onmessage = ({ data }) => {
      if (data === "[DONE]") {
        source.close(); // or it would come back for more
        sessionStorage.removeItem("answer");
        return resolve();
      }
      const { text, error } = JSON.parse(data);
      if (text) show(text);
      if (error) reject(new Error(error)); // [DONE] follows
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) reject(new Error("the server refused")); // or the page is left
    };
  });
}

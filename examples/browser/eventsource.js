/** With what every browser has. It reconnects by itself, and the ids say where to go on: nothing is lost or repeated. */
export function ask(message, show) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`/agents/chat/stream?query=${encodeURIComponent(message)}`);
    source.onmessage = ({ data }) => {
      if (data === "[DONE]") {
        source.close(); // or it would come back for more
        return resolve();
      }
      const { text, error } = JSON.parse(data);
      if (text) show(text);
      if (error) reject(new Error(error)); // [DONE] follows
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) reject(new Error("the server refused"));
    };
  });
}

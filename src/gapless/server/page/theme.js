/* Light, dark, or as the system has it. It is no module: it runs before the page is painted. */

(() => {
  const ITEM = "gapless.theme";
  const read = () => {
    try {
      return localStorage.getItem(ITEM) ?? "system";
    } catch {
      return "system"; // storage is not allowed here
    }
  };
  const apply = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  apply(read());
  addEventListener("storage", ({ key }) => key === ITEM && apply(read()));
  addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    choice.value = read();
    choice.addEventListener("change", () => {
      apply(choice.value);
      localStorage.setItem(ITEM, choice.value);
    });
  });
})();

// Light or dark: as the system has it until the button is pressed.

const root = document.documentElement;

// The browser's store may be closed to us.
function stored(action) {
  try {
    return action(localStorage);
  } catch {
    return null;
  }
}

// Relative addresses and the session's cookie belong to the page's folder.
if (!location.pathname.endsWith("/")) location.replace(`${location.pathname}/${location.search}`);

const chosen = stored((store) => store.getItem("theme"));
if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

document.getElementById("theme").addEventListener("click", () => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const next = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  root.dataset.theme = next;
  stored((store) => store.setItem("theme", next));
});

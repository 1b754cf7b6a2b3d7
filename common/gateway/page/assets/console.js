// The console's last lines.

const MOST_LINES = 500;
let nextLine = 0;

function showConsole(told) {
  const box = $("console");
  if (!told) {
    setText(box, "The console is shown to keys with the role admin.");
    $("follow").disabled = true;
    return;
  }
  nextLine = told.next;
  if (!told.lines.length) return;
  const lines = told.lines.map((text) => el("div", /^\[[^\]]+\] /.test(text) ? { class: "engine" } : {}, text));
  box.append(...lines);
  while (box.childElementCount > MOST_LINES) box.firstElementChild.remove();
  if ($("follow").checked) box.scrollTop = box.scrollHeight;
}

function wireConsole() {
  const box = $("console");
  box.addEventListener("scroll", () => {
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
    if ($("follow").checked !== atEnd) $("follow").checked = atEnd;
  });
  $("follow").addEventListener("change", () => {
    if ($("follow").checked) box.scrollTop = box.scrollHeight;
  });
}

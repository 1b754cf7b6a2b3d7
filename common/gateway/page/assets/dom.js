// Small helpers. All text gets into the page as text: the browser is told to refuse anything else.

const $ = (id) => document.getElementById(id);

// An element with classes, attributes and children (nodes or texts).
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Only changes are written, so that selections stay and screen readers hear what is new alone.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setHidden(node, isHidden) {
  if (node.hidden !== isHidden) node.hidden = isHidden;
}

function icon(name) {
  return svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

// A page on plain HTTP has no clipboard API; the older way works there.
async function toClipboard(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not allowed here: the older way may be.
    }
  }
  const area = el("textarea", { class: "unseen", readonly: "" });
  area.value = text;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (focused) focused.focus();
  return done;
}

function makeCopy(button, text) {
  button.addEventListener("click", async () => {
    const done = await toClipboard(text());
    const use = button.querySelector("use");
    use.setAttribute("href", done ? "#icon-done" : "#icon-copy");
    button.classList.toggle("copied", done);
    say(done ? "Copied." : "The browser does not allow copying: select the text instead.", !done);
    setTimeout(() => {
      use.setAttribute("href", "#icon-copy");
      button.classList.remove("copied");
      if (done) say("");
    }, 1500);
  });
}

function copyButton(label, text) {
  const button = el("button", { type: "button", class: "icon", title: label }, icon("copy"));
  button.append(el("span", { class: "unseen" }, label));
  makeCopy(button, text);
  return button;
}

function say(text, isBad = false) {
  const node = $("outcome");
  setText(node, text);
  setHidden(node, !text);
  node.classList.toggle("bad", isBad);
}

function count(value) {
  return value.toLocaleString("en");
}

// What the page's own address is, without a slash at its end, whatever prefix it is behind.
function ownBase() {
  return location.origin + location.pathname.replace(/\/+$/, "");
}

// The page as a whole: asks for the instance's state and shows it.

const POLL_MS = 2000;
const STATES = {
  loading: "Loading",
  active: "Active",
  idle: "Idle",
  stopped: "Stopping",
  failed: "Failed",
  unreachable: "No answer",
};
let state = JSON.parse($("first").textContent);
let goneSince = null;
let timer = null;
let isAsking = false;

function base() {
  return state.instance.public_url || ownBase();
}

function chosenModel() {
  return state.models.find((model) => model.name === $("model").value);
}

function showStatus(status) {
  $("status").dataset.status = status;
  setText($("state"), STATES[status] || status);
  const href = `#badge-${STATES[status] ? status : "idle"}`;
  if ($("badge").getAttribute("href") !== href) $("badge").setAttribute("href", href);
}

// A term and its value; `link` makes the text one, `copy` adds a button.
function fact(term, text, { link = "", copy = false } = {}) {
  const value = el("dd", {});
  if (/^https?:\/\//.test(link)) {
    value.append(el("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, text));
  } else value.append(el("span", {}, text));
  if (copy) value.append(copyButton(`Copy: ${term}`, () => text));
  return [el("dt", {}, term), value];
}

let shownFacts = "";

function showFacts() {
  const { instance, access } = state;
  const facts = [["Base URL", `${base()}/v1`, { copy: true }]];
  if (instance.task_id) facts.push(["Session", instance.task_id, { link: instance.task_url, copy: true }]);
  if (instance.console_url) facts.push(["Console log", "in ClearML", { link: instance.console_url }]);
  const command = keyCommand(access, instance);
  const term = access.credential === "token" ? "Token" : "Key";
  if (access.credential === "none") facts.push([term, "none is asked for"]);
  else if (command) facts.push([term, command, { copy: true }]);
  else facts.push([term, "as set in the instance's configuration"]);
  if (access.credential !== "none") facts.push(["Logged in as", access.name]);
  // Made again only when something changed: a button in it may have the focus.
  const text = JSON.stringify(facts);
  if (text === shownFacts) return;
  shownFacts = text;
  $("facts").replaceChildren(...facts.flatMap(([term, value, more]) => fact(term, value, more)));
}

function show() {
  const { instance, models, access } = state;
  showStatus(instance.is_draining && instance.status !== "failed" ? "stopped" : instance.status);
  setText($("subtitle"), [instance.app, instance.engine].filter(Boolean).join(" · "));
  setText($("idle"), ((instance.idle_s || 0) / 3600).toFixed(1));
  setText($("limit"), instance.idle_limit_hours ? String(instance.idle_limit_hours) : "∞");
  const warning = instance.is_draining ? "The instance is stopping: new requests are refused." : instance.warning || "";
  setText($("warning"), warning);
  setHidden($("warning"), !warning);
  setHidden($("logout"), !access.can_log_out);
  showFacts();
  showModels(models, base(), access.can_operate);
  showMemory(state.memory, models);
  showPicker(models);
  showExample(models, base(), access.credential);
  showKeyHint(access, instance);
  showConsole(state.console);
  showCharts(state.charts);
}

async function poll() {
  const query = `?data=state&after=${nextLine}&since=${lastPointAt()}`;
  let answer;
  try {
    answer = await fetch(query, { cache: "no-store", signal: AbortSignal.timeout(10000) });
  } catch {
    showGone("The instance does not answer");
    return;
  }
  if (answer.status === 401) {
    // The session ended: the same address shows the form.
    location.reload();
    return;
  }
  if (!answer.ok) {
    showGone(`The instance answers with an error (${answer.status})`);
    return;
  }
  let next;
  try {
    next = await answer.json();
  } catch {
    showGone("Something else than the instance answers");
    return;
  }
  if (next.instance.started !== state.instance.started) {
    // Another run at the same address: nothing of what is shown is its own.
    location.reload();
    return;
  }
  state = next;
  goneSince = null;
  setHidden($("gone"), true);
  show();
}

function showGone(what) {
  goneSince = goneSince || new Date().toLocaleTimeString("en", { hourCycle: "h23" });
  const text = `${what} since ${goneSince}: it may have been stopped. What is shown is as it was then. Trying again every ${POLL_MS / 1000} seconds.`;
  setText($("gone"), text);
  setHidden($("gone"), false);
  showStatus("unreachable");
}

// One question at a time, and none while nobody looks.
async function keepPolling() {
  clearTimeout(timer);
  timer = null;
  if (isAsking || document.visibilityState !== "visible") return;
  isAsking = true;
  await poll();
  isAsking = false;
  timer = setTimeout(keepPolling, POLL_MS);
}

function wire() {
  buildCharts();
  wireConsole();
  makeCopy($("copy-example"), () => $("example").textContent);
  const follow = () => showExample(state.models, base(), state.access.credential);
  $("model").addEventListener("change", follow);
  $("prompt").addEventListener("input", follow);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("playground").requestSubmit();
  });
  $("playground").addEventListener("submit", (event) => {
    event.preventDefault();
    send(chosenModel());
  });
  // Until here the browser would have sent the form itself, which loads the page anew.
  $("send").disabled = false;
  $("stop").addEventListener("click", stopAnswer);
  document.addEventListener("visibilitychange", keepPolling);
}

wire();
show();
keepPolling();

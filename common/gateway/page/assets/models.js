// The table of models. Rows are made once and then kept up to date, so that focus stays where it is.

const rows = new Map();
const STATUS_TEXT = { ready: "ready", loading: "loading", sleeping: "sleeping", offloaded: "unloaded", failed: "failed" };
const OPERATIONS = {
  load: { text: "Load", doing: "Loading" },
  sleep: { text: "Sleep", doing: "Putting to sleep" },
  unload: { text: "Unload", doing: "Unloading" },
};
const REACHED_TEXT = { ready: "loaded", sleeping: "asleep", offloaded: "unloaded" };

function memory(bytes) {
  if (!bytes) return "–";
  const gib = bytes / 2 ** 30;
  return gib < 0.1 ? `${(bytes / 2 ** 20).toFixed(0)} MiB` : `${gib.toFixed(gib < 10 ? 2 : 1)} GiB`;
}

function cell(label, ...children) {
  return el("td", { "data-label": label }, ...children);
}

function makeRow(name) {
  const row = {
    endpoint: el("span"),
    adapters: el("span", { class: "small" }),
    failure: el("span", { class: "failure" }),
    pill: el("span", { class: "pill" }),
    progress: el("span", { class: "small" }),
    inFlight: cell("In flight"),
    waiting: el("span", { class: "small" }),
    requests: el("span"),
    failed: el("span", { class: "small" }),
    tokens: cell("Tokens in / out"),
    memory: el("span"),
    pools: el("span", { class: "small pools-of" }),
    tier: el("span", { class: "tier" }),
    tierIcon: svg("use"),
    tierText: el("span"),
    loading: el("span", { class: "small" }),
    model: null,
    isBusy: false,
    wantsFocus: false,
  };
  row.tier.append(svg("svg", { "aria-hidden": "true" }, row.tierIcon), row.tierText);
  row.inFlightText = el("span");
  row.inFlight.append(row.inFlightText, row.waiting, row.loading);
  const requests = cell("Requests", row.requests, row.failed);
  const memoryCell = cell("Memory", row.memory, row.pools);
  row.buttons = Object.keys(OPERATIONS).map((operation) => operationButton(row, operation));
  row.operations = el("td", { class: "operations" }, ...row.buttons.map((one) => one.node));
  for (const node of [row.inFlight, requests, row.tokens, memoryCell]) node.classList.add("number");
  row.node = el(
    "tr",
    {},
    cell("Model", el("span", {}, name), copyButton(`Copy the name ${name}`, () => name), row.adapters, row.failure),
    cell("Endpoint", row.endpoint, copyButton(`Copy the endpoint of ${name}`, () => row.endpoint.textContent)),
    cell("Status", row.pill, row.tier, row.progress),
    row.inFlight,
    requests,
    row.tokens,
    memoryCell,
    row.operations,
  );
  return row;
}

function showModels(models, base, canOperate) {
  const body = $("model-table").tBodies[0];
  if (models.length !== rows.size || models.some((model) => !rows.has(model.name))) {
    rows.clear();
    for (const model of models) rows.set(model.name, makeRow(model.name));
    body.replaceChildren(...[...rows.values()].map((row) => row.node));
  }
  setHidden($("operations-head"), !canOperate);
  for (const model of models) showModel(rows.get(model.name), model, base, canOperate);
}

function showModel(row, model, base, canOperate) {
  row.model = model;
  setText(row.endpoint, `${base}/${model.path}`);
  setText(row.adapters, model.adapters.length ? `Adapters: ${model.adapters.join(", ")}` : "");
  setText(row.failure, model.failure || "");
  row.pill.dataset.status = model.status;
  setText(row.pill, statusText(model));
  setText(row.progress, model.progress);
  showTier(row, model.memory);
  const limit = model.limit ? ` of ${model.limit}` : "";
  setText(row.inFlightText, `${count(model.in_flight)}${limit}`);
  setText(row.waiting, model.waiting ? `${count(model.waiting)} waiting` : "");
  setText(row.requests, count(model.requests));
  setText(row.failed, model.failed ? `${count(model.failed)} failed` : "");
  setText(row.tokens, `${count(model.prompt_tokens)} / ${count(model.generated_tokens)}`);
  setHidden(row.operations, !canOperate);
  showOperations(row, canOperate ? operationsFor(model) : []);
}

// Tier and pools, which only models have that are moved by themselves.
function showTier(row, told) {
  setHidden(row.tier, !told);
  const lines = told ? poolLines(told) : "";
  const measured = row.model.memory_bytes;
  setText(row.memory, measured || !lines ? memory(measured) : "");
  setText(row.pools, lines);
  setText(row.loading, told && told.waiting ? `${count(told.waiting)} to be loaded` : "");
  if (!told) return;
  row.tier.dataset.tier = told.tier;
  const href = `#icon-tier-${told.tier}`;
  if (row.tierIcon.getAttribute("href") !== href) row.tierIcon.setAttribute("href", href);
  setText(row.tierText, tierText(told));
}

function statusText(model) {
  if (isGivingWay(model)) return "giving way";
  if (!isMoving(model) || model.status === "failed") return STATUS_TEXT[model.status] || model.status;
  const { tier, moving_to: to } = model.memory;
  if (to === "gpu") return tier === "cpu" ? "waking" : "loading";
  return to === "cpu" ? "going to sleep" : "unloading";
}

// Buttons that make no sense now are hidden; the focus does not get lost with the one that had it.
function showOperations(row, offered) {
  const hadFocus = row.operations.contains(document.activeElement);
  for (const { operation, node } of row.buttons) {
    setHidden(node, !offered.includes(operation));
    node.disabled = row.isBusy;
    setText(node, operationText(operation, row.model));
    node.setAttribute("aria-label", `${node.textContent} ${row.model.name}`);
  }
  const shown = row.buttons.find(({ node }) => !node.hidden && !node.disabled);
  if (hadFocus && (document.activeElement.hidden || document.activeElement.disabled)) row.wantsFocus = true;
  if (!row.wantsFocus || !shown) return;
  row.wantsFocus = false;
  const { activeElement } = document;
  if (activeElement === document.body || row.operations.contains(activeElement)) shown.node.focus();
}

function operationsFor(model) {
  if (isMoving(model) || isGivingWay(model)) return [];
  const told = model.memory;
  if (model.status === "ready") return told && told.tier === "gpu" && told.can_sleep ? ["sleep", "unload"] : ["unload"];
  if (model.status === "loading") return [];
  return model.status === "sleeping" ? ["load", "unload"] : ["load"];
}

function operationText(operation, model) {
  return operation === "load" && model.status === "sleeping" ? "Wake" : OPERATIONS[operation].text;
}

function operationButton(row, operation) {
  const node = el("button", { type: "button" });
  node.addEventListener("click", () => operate(row, operation));
  return { operation, node };
}

function confirmed(question, answer) {
  const dialog = $("confirm");
  setText($("question"), question);
  setText($("confirm-yes"), answer);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function operate(row, operation) {
  const { model } = row;
  const verb = operationText(operation, model);
  if (!(await confirmed(questionFor(operation, model, verb), verb))) return;
  row.isBusy = true;
  showOperations(row, operationsFor(model));
  say(`${OPERATIONS[operation].doing} ${model.name} …`);
  try {
    const path = model.path.replace(/\/v1$/, "");
    const answer = await fetch(`admin/models/${path}/${operation}`, { method: "POST" });
    if (answer.ok) {
      // Not always what was asked for: one that could not be put to sleep is unloaded.
      const { status } = await answer.json();
      say(`${model.name} is ${REACHED_TEXT[status] || status}.`);
    } else say(await errorText(answer), true);
  } catch (error) {
    say(`The instance did not answer: ${error.message}`, true);
  } finally {
    row.isBusy = false;
    showOperations(row, operationsFor(row.model));
  }
}

function questionFor(operation, model, verb) {
  if (operation === "load") return `${verb} ${model.name}?`;
  const question = operation === "sleep" ? `Put ${model.name} to sleep?` : `Unload ${model.name}?`;
  const now = model.memory ? "Requests in flight are answered first" : "Requests in flight are cut off";
  return `${question} ${now}; the next request ${operation === "sleep" ? "wakes" : "loads"} the model again.`;
}

// The table of models. Rows are made once and then kept up to date, so that focus stays where it is.

const rows = new Map();
const STATUS_TEXT = { ready: "ready", loading: "loading", sleeping: "sleeping", offloaded: "unloaded", failed: "failed" };

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
    memory: cell("Memory"),
    operate: el("button", { type: "button" }),
    model: null,
  };
  row.inFlightText = el("span");
  row.inFlight.append(row.inFlightText, row.waiting);
  const requests = cell("Requests", row.requests, row.failed);
  row.operations = el("td", { class: "operations" }, row.operate);
  for (const node of [row.inFlight, requests, row.tokens, row.memory]) node.classList.add("number");
  row.operate.addEventListener("click", () => operate(row.model));
  row.node = el(
    "tr",
    {},
    cell("Model", el("span", {}, name), copyButton(`Copy the name ${name}`, () => name), row.adapters, row.failure),
    cell("Endpoint", row.endpoint, copyButton(`Copy the endpoint of ${name}`, () => row.endpoint.textContent)),
    cell("Status", row.pill, row.progress),
    row.inFlight,
    requests,
    row.tokens,
    row.memory,
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
  setText(row.pill, STATUS_TEXT[model.status] || model.status);
  setText(row.progress, model.progress);
  const limit = model.limit ? ` of ${model.limit}` : "";
  setText(row.inFlightText, `${count(model.in_flight)}${limit}`);
  setText(row.waiting, model.waiting ? `${count(model.waiting)} waiting` : "");
  setText(row.requests, count(model.requests));
  setText(row.failed, model.failed ? `${count(model.failed)} failed` : "");
  setText(row.tokens, `${count(model.prompt_tokens)} / ${count(model.generated_tokens)}`);
  setText(row.memory, memory(model.memory_bytes));
  setHidden(row.operations, !canOperate);
  const operation = operationFor(model.status);
  setHidden(row.operate, !operation);
  setText(row.operate, operation === "unload" ? "Unload" : "Load");
  row.operate.setAttribute("aria-label", `${row.operate.textContent} ${model.name}`);
}

function operationFor(status) {
  if (status === "ready") return "unload";
  return status === "loading" ? "" : "load";
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

async function operate(model) {
  const operation = operationFor(model.status);
  const question =
    operation === "unload"
      ? `Unload ${model.name}? Requests in flight are cut off; the next request loads the model again.`
      : `Load ${model.name}?`;
  if (!(await confirmed(question, operation === "unload" ? "Unload" : "Load"))) return;
  const button = rows.get(model.name).operate;
  button.disabled = true;
  say(operation === "unload" ? `Unloading ${model.name} …` : `Loading ${model.name} …`);
  try {
    const path = model.path.replace(/\/v1$/, "");
    const answer = await fetch(`admin/models/${path}/${operation}`, { method: "POST" });
    if (answer.ok) say(operation === "unload" ? `${model.name} is unloaded.` : `${model.name} is loaded.`);
    else say(await errorText(answer), true);
  } catch (error) {
    say(`The instance did not answer: ${error.message}`, true);
  } finally {
    button.disabled = false;
  }
}

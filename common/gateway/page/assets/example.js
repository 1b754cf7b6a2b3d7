// The access example: a curl command that follows the model and the prompt.

// Nothing is special to a shell between single quotes but these.
function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function requestPath(model) {
  return `${model.path}/${model.is_embedding ? "embeddings" : "chat/completions"}`;
}

function requestBody(model, prompt) {
  if (model.is_embedding) return { model: model.name, input: prompt };
  return { model: model.name, messages: [{ role: "user", content: prompt }] };
}

// The body as a person would write it: an entry a line, the messages as one entry.
function bodyText(body) {
  const entries = Object.entries(body).map(([key, value]) => {
    const text = Array.isArray(value) ? `[\n${value.map((one) => `      ${oneLine(one)}`).join(",\n")}\n    ]` : JSON.stringify(value);
    return `    ${JSON.stringify(key)}: ${text}`;
  });
  return `{\n${entries.join(",\n")}\n  }`;
}

function oneLine(object) {
  return `{${Object.entries(object).map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`).join(", ")}}`;
}

function curlCommand(base, model, prompt, needsKey) {
  const lines = [`curl ${shellQuoted(`${base}/${requestPath(model)}`)}`];
  lines.push("-H 'Content-Type: application/json'");
  // In double quotes: the shell puts the key there.
  if (needsKey) lines.push('-H "Authorization: Bearer $API_KEY"');
  lines.push(`-d ${shellQuoted(bodyText(requestBody(model, prompt)))}`);
  return lines.join(" \\\n  ");
}

function showPicker(models) {
  const picker = $("model");
  const names = models.map((model) => model.name);
  const shown = [...picker.options].map((option) => option.value);
  if (names.join("\n") === shown.join("\n")) return;
  const selected = picker.value;
  picker.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  if (names.includes(selected)) picker.value = selected;
}

function showExample(models, base, credential) {
  const model = models.find((one) => one.name === $("model").value);
  if (!model) return;
  setText($("example"), curlCommand(base, model, $("prompt").value, credential !== "none"));
}

// What prints the key or the token; "" where none is asked for or nothing prints it.
function keyCommand(access, instance) {
  if (access.credential === "token") return "clearml-deploy token";
  if (access.credential === "none" || instance.key_is_given) return "";
  return `clearml-deploy key ${instance.task_id || "<task id>"}`;
}

function showKeyHint(access, instance) {
  const command = keyCommand(access, instance);
  const how = command ? `: export API_KEY=$(${command})` : ".";
  setText($("key-hint"), access.credential === "none" ? "" : `Put your ${access.credential} into $API_KEY first${how}`);
}

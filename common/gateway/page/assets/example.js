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

function curlCommand(base, model, prompt, needsKey) {
  const lines = [`curl ${shellQuoted(`${base}/${requestPath(model)}`)}`];
  lines.push("-H 'Content-Type: application/json'");
  // In double quotes: the shell puts the key there.
  if (needsKey) lines.push('-H "Authorization: Bearer $API_KEY"');
  lines.push(`-d ${shellQuoted(JSON.stringify(requestBody(model, prompt), null, 2))}`);
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

function showExample(models, base, needsKey) {
  const model = models.find((one) => one.name === $("model").value);
  if (!model) return;
  setText($("example"), curlCommand(base, model, $("prompt").value, needsKey));
}

function showKeyHint(access, instance) {
  const task = instance.task_id || "<task id>";
  setText(
    $("key-hint"),
    access.needs_key ? `Put your key into $API_KEY first, for instance: export API_KEY=$(clearml-deploy key ${task})` : "",
  );
}

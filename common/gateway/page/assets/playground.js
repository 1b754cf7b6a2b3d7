// The playground: sends the prompt and shows the answer as it comes.

let running = null;

// What an error's answer says, in words.
async function errorText(answer) {
  const text = await answer.text();
  try {
    const { error } = JSON.parse(text);
    return `${answer.status}: ${error.message || JSON.stringify(error)}`;
  } catch {
    return `${answer.status}: ${text.slice(0, 2000) || answer.statusText}`;
  }
}

// The events' data of a stream, and "" for a comment, which a waiting stream sends as heartbeat.
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
      else if (line.startsWith(":")) yield "";
    }
  }
}

// Appends to the answer; follows its end unless the reader has scrolled up.
function writeAnswer(text, kind = "") {
  const box = $("answer");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
  let last = box.lastElementChild;
  if (!last || last.className !== kind) {
    last = el("span", kind ? { class: kind } : {});
    last.className = kind;
    box.append(last);
  }
  last.append(text);
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function showUsage(text) {
  setText($("usage"), text);
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

function usageText(run, end) {
  const parts = [];
  const { usage } = run;
  const tokens = usage ? usage.completion_tokens : run.pieces;
  if (usage) parts.push(`${count(usage.prompt_tokens)} tokens in, ${count(tokens)} out`);
  else parts.push(`about ${count(tokens)} tokens out`);
  if (run.firstAt !== null) {
    parts.push(`first after ${seconds(run.firstAt - run.began)}`);
    if (tokens > 1 && end > run.firstAt) {
      parts.push(`${(((tokens - 1) * 1000) / (end - run.firstAt)).toFixed(1)} tokens/s`);
    }
  }
  parts.push(`${seconds(end - run.began)} in all`);
  return parts.join(" · ");
}

function takeEvent(run, data) {
  if (data === "") {
    if (run.firstAt === null) showUsage("Waiting for the model …");
    return;
  }
  if (data === "[DONE]") return;
  const event = JSON.parse(data);
  if (event.error) throw new Error(event.error.message || JSON.stringify(event.error));
  if (event.usage) run.usage = event.usage;
  const delta = event.choices && event.choices[0] ? event.choices[0].delta || {} : {};
  const thought = delta.reasoning_content || delta.reasoning || "";
  if (!thought && !delta.content) return;
  if (run.firstAt === null) run.firstAt = performance.now();
  run.pieces += 1;
  if (thought) writeAnswer(thought, "thought");
  if (delta.content) writeAnswer(delta.content);
  showUsage(`${count(run.pieces)} pieces …`);
}

async function streamAnswer(run, model, prompt, limit) {
  const body = {
    ...requestBody(model, prompt),
    max_tokens: limit,
    stream: true,
    stream_options: { include_usage: true },
  };
  const answer = await post(run, model, body);
  if (!answer) return;
  for await (const data of eventsOf(answer.body)) takeEvent(run, data);
  showUsage(usageText(run, performance.now()));
  if (run.firstAt === null) writeAnswer("The model answered with nothing.", "quiet");
}

async function showVector(run, model, prompt) {
  const answer = await post(run, model, requestBody(model, prompt));
  if (!answer) return;
  const { data, usage } = await answer.json();
  const vector = data[0].embedding;
  const head = vector.slice(0, 8).map((value) => Number(value).toPrecision(4));
  writeAnswer(`A vector of ${count(vector.length)} numbers:\n[${head.join(", ")}${vector.length > 8 ? ", …" : ""}]`);
  const took = seconds(performance.now() - run.began);
  showUsage(usage ? `${count(usage.prompt_tokens)} tokens in · ${took}` : took);
}

// Sends a body; shows an error and returns null where there is no answer to read.
async function post(run, model, body) {
  const answer = await fetch(requestPath(model), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: run.control.signal,
  });
  if (answer.ok) return answer;
  writeAnswer(await errorText(answer), "failure");
  showUsage("");
  return null;
}

async function send(model) {
  if (running || !model) return;
  const run = { control: new AbortController(), began: performance.now(), firstAt: null, pieces: 0, usage: null };
  running = run;
  const box = $("answer");
  box.replaceChildren();
  // Read out when it is complete, not word by word.
  box.setAttribute("aria-busy", "true");
  $("send").disabled = true;
  $("stop").disabled = false;
  showUsage(model.status === "ready" ? "Sent …" : `Sent; the model is ${STATUS_TEXT[model.status]} …`);
  try {
    const limit = Math.max(1, Math.floor(Number($("max-tokens").value)) || 512);
    if (model.is_embedding) await showVector(run, model, $("prompt").value);
    else await streamAnswer(run, model, $("prompt").value, limit);
  } catch (error) {
    if (run.control.signal.aborted) showUsage(`Stopped after ${seconds(performance.now() - run.began)}.`);
    else {
      writeAnswer(`${run.pieces ? "\n" : ""}${error.message || error}`, "failure");
      showUsage("The answer broke off.");
    }
  } finally {
    running = null;
    box.setAttribute("aria-busy", "false");
    const hadFocus = document.activeElement === $("stop");
    $("send").disabled = false;
    if (hadFocus) $("send").focus();
    $("stop").disabled = true;
  }
}

function stopAnswer() {
  if (running) running.control.abort();
}

// Memory that models share: the pools with what each model takes, what moves and why, the last moves.

const TIER_TEXT = { gpu: "loaded", cpu: "asleep in RAM", disk: "on disk" };

const POOL_TEXT = { host: "RAM", resident: "Running engines", held: "RAM for models put aside" };

function poolText(pool) {
  return POOL_TEXT[pool] || `GPU ${pool.replace(/^gpu/, "")}`;
}

function isMoving(model) {
  return Boolean(model.memory && model.memory.moving_to && model.memory.moving_to !== model.memory.tier);
}

function moveText(from, to) {
  return `${TIER_TEXT[from] || from} → ${TIER_TEXT[to] || to}`;
}

// It takes no new requests, and is put aside once those it has are answered.
function isGivingWay(model) {
  const isClosed = model.status === "sleeping" || model.status === "offloaded";
  return Boolean(model.memory && model.memory.tier === "gpu" && isClosed && !isMoving(model));
}

// Where a model is, and on its way to where.
function tierText(told) {
  const parts = [told.moving_to && told.moving_to !== told.tier ? moveText(told.tier, told.moving_to) : TIER_TEXT[told.tier]];
  if (told.is_pinned) parts.push("pinned");
  if (told.priority) parts.push(`priority ${told.priority}`);
  return parts.join(" · ");
}

// What a model takes of each pool, a line each. A part of the RAM that has a bound of its own is RAM already.
function poolLines(told) {
  const pools = Object.entries(told.pools).filter(([pool, bytes]) => bytes && pool !== "held");
  pools.sort(([one], [other]) => (one < other ? -1 : 1));
  return pools.map(([pool, bytes]) => `${poolText(pool)} ${memory(bytes)}`).join("\n");
}

// Made again only when something changed: text in it may be selected, or the list scrolled.
const shownMemory = {};

function replaceIfNew(node, what, make) {
  const text = JSON.stringify(what);
  if (shownMemory[node.id] === text) return;
  shownMemory[node.id] = text;
  node.replaceChildren(...make());
}

function showMemory(told, models) {
  setHidden($("memory"), !told);
  if (!told) return;
  const shares = models.map(({ name, memory: own }) => ({ name, own }));
  replaceIfNew($("pools"), [told.pools, shares], () => told.pools.map((pool) => poolNode(pool, models)));
  const busy = models.filter((model) => isMoving(model) || isGivingWay(model) || (model.memory && model.memory.waiting));
  const lines = busy.map((model) => [model.name, doingText(model), model.memory.reason]);
  replaceIfNew($("moving"), lines, () => lines.map(movingNode));
  setHidden($("moving"), !lines.length);
  replaceIfNew($("moves-body"), told.moves, () => [...told.moves].reverse().map(moveRow));
  setHidden($("moves"), !told.moves.length);
}

// The models in a pool, and what is held by those that this visitor does not see.
function sharesOf(pool, models) {
  const shares = models.map((model, color) => ({
    name: model.name,
    bytes: (model.memory && model.memory.pools[pool.name]) || 0,
    look: `s${color % 8}${isMoving(model) ? " moving" : ""}`,
  }));
  const seen = shares.reduce((sum, one) => sum + one.bytes, 0);
  shares.push({ name: "other models", bytes: Math.max(0, pool.held_bytes - seen), look: "others" });
  return shares.filter((one) => one.bytes);
}

function poolNode(pool, models) {
  const shares = sharesOf(pool, models);
  const held = `${memory(pool.held_bytes)} of ${memory(pool.capacity_bytes)}`;
  const whole = Math.max(pool.capacity_bytes, pool.held_bytes, 1);
  const isOver = pool.held_bytes > pool.capacity_bytes;
  const entries = shares.map((one) => `${one.name} ${memory(one.bytes)}`);
  const label = `${poolText(pool.name)}: ${held} in use${entries.length ? `: ${entries.join(", ")}` : ""}`;
  const bar = svg("svg", { class: "bar", role: "img", "aria-label": label });
  let x = 0;
  for (const one of shares) {
    const width = (one.bytes / whole) * 100;
    bar.append(svg("rect", { class: `share ${one.look}`, x: `${x}%`, width: `${width}%`, height: "100%" }));
    x += width;
  }
  const legend = el(
    "ul",
    { class: "legend" },
    ...shares.map((one) =>
      el(
        "li",
        { class: one.look },
        el("span", { class: "swatch" }),
        el("span", { class: "name" }, one.name),
        el("span", { class: "value" }, memory(one.bytes)),
      ),
    ),
  );
  const value = el("span", { class: isOver ? "failure" : "quiet" }, held);
  return el("div", { class: "pool" }, el("div", { class: "caption" }, poolText(pool.name), value), bar, legend);
}

function movingNode([name, doing, reason]) {
  return el("li", {}, el("strong", {}, name), ` ${doing}${reason ? `: ${reason}` : ""}`);
}

function doingText(model) {
  const { tier, moving_to: to, waiting } = model.memory;
  const parts = [];
  if (isMoving(model)) parts.push(`is moving, ${moveText(tier, to)}`);
  if (isGivingWay(model)) parts.push("gives way when its requests are answered");
  if (waiting) parts.push(waiting === 1 ? "1 request waits for it" : `${count(waiting)} requests wait for it`);
  return parts.join("; ");
}

function moveRow(move) {
  const took = cell("Took", seconds(move.seconds * 1000));
  took.classList.add("number");
  return el(
    "tr",
    {},
    cell("When", clock(move.at, true)),
    cell("Model", move.model),
    cell("Move", moveText(move.from, move.to)),
    took,
    cell("Why", move.reason || "–"),
  );
}

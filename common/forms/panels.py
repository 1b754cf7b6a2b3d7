"""The HTML panels of a dashboard. The server fills in ``${hyperparams.Status.<name>.value}``.

Plain HTML without backslashes, which HOCON readers take differently, and without JavaScript's own
``${...}``. Only values that the instance escapes, or that are its own, are filled in as markup.
"""

from __future__ import annotations

STATUS_ICONS = ("active", "loading", "idle", "stopped")


def _value(name: str) -> str:
    return f"${{hyperparams.Status.{name}.value}}"


def _icon_of(status: str) -> str:
    return (
        f'<img src="${{ASSET:status-{status}.svg}}" alt="{status}" width="56" height="56" hidden>'
    )


_STYLE = """<style>
.deploy { font: 14px/1.6 system-ui, sans-serif; }
.deploy { display: flex; flex-wrap: wrap; gap: 8px 32px; align-items: center; }
.deploy > div { flex: none; }
.deploy code, .deploy pre { font: 13px/1.5 ui-monospace, monospace; }
.deploy dl { display: grid; grid-template-columns: auto 1fr; gap: 4px 16px; margin: 0; }
.deploy dt { text-transform: uppercase; font-size: 12px; color: #5a658e; }
.deploy dd { margin: 0; word-break: break-all; }
.deploy table { border-collapse: collapse; width: 100%; text-align: left; font: inherit; }
.deploy th, .deploy td { padding: 8px 12px; border-bottom: 1px solid #dce0ee; }
.deploy td:nth-child(-n+2) { overflow-wrap: anywhere; }
.deploy [data-status] { text-align: center; }
.deploy pre { white-space: pre-wrap; word-break: break-all; }
.deploy pre { padding: 12px; margin: 8px 0 0; border: 1px solid #dce0ee; }
.deploy .wide { flex: 1 1 100%; }
.deploy label { display: block; margin-top: 8px; }
.deploy select, .deploy input { display: block; width: 100%; padding: 6px; box-sizing: border-box; }
</style>"""

_ICON_RULES = (
    "<style>\n"
    + "\n".join(
        f'.deploy [data-status="{status}"] img[alt="{icon}"] {{ display: block; }}'
        for status, icon in (*((icon, icon) for icon in STATUS_ICONS), ("failed", "stopped"))
    )
    + "\n</style>"
)

_STATE = f"""<div data-status="{_value("status")}">
{chr(10).join(_icon_of(status) for status in STATUS_ICONS)}
<b>{_value("status")}</b>
</div>
<div>Idle for <b>{_value("idle_hours")}</b> hours<br>
Stops by itself after <b>{_value("idle_limit")}</b> hours</div>"""

_TOKEN = (
    f'<dt>Generate token</dt><dd><a href="{_value("token_link")}" target="_blank">'
    f"{_value('token_link')}</a></dd>"
)
_SESSION = (
    f"<dt>Session</dt><dd>{_value('session')} | "
    f'<a href="{_value("console_log")}" target="_blank">Console log</a></dd>'
)


def _panel(*parts: str) -> str:
    return "\n".join([_STYLE, *parts])


STATUS = _panel(
    _ICON_RULES, f'<div class="deploy">{_STATE}\n<div><dl>{_TOKEN}{_SESSION}</dl></div></div>'
)
"""Status, idle time, where to make a token, session and console log."""

LEGACY_STATUS = _panel(
    _ICON_RULES, f'<div class="deploy">{_STATE}\n<div><dl>{_SESSION}</dl></div></div>'
)
"""The same for the app that shows its key."""

MODELS = _panel(f'<div class="deploy"><div class="wide">{_value("models_table")}</div></div>')
"""The models and their endpoints."""

LEGACY_ACCESS = _panel(
    f"""<div class="deploy"><div class="wide"><dl>
<dt>Endpoint</dt><dd>{_value("endpoint")}</dd>
<dt>API base</dt><dd>{_value("api_base")}</dd>
<dt>API key</dt><dd><code>{_value("api_key")}</code></dd>
</dl>
<b>Test command</b>
<pre>{_value("test_command")}</pre></div></div>"""
)
"""Where the one model is reached, with which key, and a command to try it."""

# Each row of the models table has the example of its model, with the path and body that it answers;
# the prompt is put in its place there.
_CHOOSE = """<script>
(function () {
  var panel = document.currentScript.parentElement;
  var example = panel.querySelector("pre");
  var chosen = panel.querySelector("select"), prompt = panel.querySelector("input");
  var rows = panel.querySelectorAll("[data-models] tr[data-example]");
  if (!rows.length) return;
  rows.forEach(function (row) { chosen.add(new Option(row.querySelector("td").textContent)); });
  function shell(text) { return text.split("'").join("'" + '"' + "'" + '"' + "'"); }
  function quoted(text) { return shell(JSON.stringify(text)); }
  function write() {
    example.textContent = rows[chosen.selectedIndex].dataset.example
      .split(quoted("Hello world!")).join(quoted(prompt.value));
  }
  chosen.addEventListener("change", write);
  prompt.addEventListener("input", write);
  panel.querySelector("[data-choice]").hidden = false;
})();
</script>"""

ACCESS = _panel(
    f"""<div class="deploy"><div class="wide">
<div data-models hidden>{_value("models_table")}</div>
<div data-choice hidden>
<label>Select model <select></select></label>
<label>Prompt <input value="Hello world!"></label>
</div>
<p>Put a token, or the key that the instance generated (clearml-deploy key {_value("session")}), in the place of
<b>YOUR_GENERATED_TOKEN</b>.</p>
<pre>{_value("curl_example")}</pre>
{_CHOOSE}</div></div>"""
)
"""A command that sends a prompt to a model; model and prompt can be chosen."""

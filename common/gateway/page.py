"""The instance's page: one HTML document without any other file (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line) }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere }
pre { background: var(--soft); padding: .8rem; border-radius: .4rem; white-space: pre-wrap }
input, button { font: inherit; padding: .4rem .6rem }
.status { padding: .1rem .5rem; border-radius: 1rem; background: var(--soft) }
.ready { background: #2a92; color: #184 } .failed { background: #d332; color: #b22 }
.error { color: #b22 } .meta { opacity: .75 }
@media (prefers-color-scheme: dark) { .ready { color: #6d8 } .failed, .error { color: #f88 } }
"""


@dataclass(frozen=True)
class ModelRow:
    """One line of the table of models."""

    name: str
    status: str
    failure: str | None
    endpoint: str
    in_flight: int
    adapters: tuple[str, ...] = ()


def render_login(instance_name: str, *, is_wrong: bool) -> str:
    """Return the login form; it tells nothing about the models."""
    wrong = '<p class="error" role="alert">This key is not valid here.</p>' if is_wrong else ""
    return _document(
        instance_name,
        f"""{wrong}
<p>Log in with an API key of this instance.</p>
<form method="post">
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<button type="submit">Log in</button>
</form>""",
    )


def render_status(
    instance_name: str,
    models: Sequence[ModelRow],
    *,
    base_url: str,
    task_id: str | None,
    with_key: bool,
    with_logout: bool,
) -> str:
    """Return the page with models, endpoints, status and an example.

    Args:
        instance_name: For the heading.
        models: The table's rows.
        base_url: How the browser reached the instance, without a slash at its end.
        task_id: ClearML task, shown when there is one.
        with_key: The example carries a key's placeholder.
        with_logout: Show a way to log out.
    """
    rows = "\n".join(_row(model) for model in models)
    task = f'<p class="meta">ClearML task <code>{escape(task_id)}</code></p>' if task_id else ""
    logout = (
        '<form method="post"><button name="logout" value="1">Log out</button></form>'
        if with_logout
        else ""
    )
    example = _example(models[0].name, base_url, with_key) if models else ""
    return _document(
        instance_name,
        f"""{task}
<h2>Models</h2>
<table>
<thead><tr><th>Name</th><th>Status</th><th>In flight</th><th>Endpoint</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
{example}
{logout}""",
    )


def _row(model: ModelRow) -> str:
    failure = f'<br><span class="error">{escape(model.failure)}</span>' if model.failure else ""
    status = escape(model.status)
    adapters = "".join(
        f'<br><span class="meta">adapter <code>{escape(name)}</code></span>'
        for name in model.adapters
    )
    return (
        f"<tr><td><code>{escape(model.name)}</code>{adapters}</td>"
        f'<td><span class="status {status}">{status}</span>{failure}</td>'
        f"<td>{model.in_flight}</td><td><code>{escape(model.endpoint)}</code></td></tr>"
    )


def _example(model: str, base_url: str, with_key: bool) -> str:
    key = ' \\\n  -H "Authorization: Bearer $API_KEY"' if with_key else ""
    body = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}' % model  # noqa: UP031
    command = (
        f"curl {base_url}/v1/chat/completions{key} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"
    )
    return f"<h2>Example</h2>\n<pre>{escape(command)}</pre>"


def _document(title: str, content: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{content}
</body>
</html>
"""

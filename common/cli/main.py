"""``clearml-deploy``: the command group, and how its errors and exit codes come about."""

from __future__ import annotations

import importlib

import click

from common.cli.errors import ErrorsEndIt

# Where each command lives; imported when it is called, so that `--help` is quick.
_COMMANDS = {
    "demo": (
        "common.cli.demo",
        "A real model through a local server, an agent and a queue; one chat.",
    ),
    "local": ("common.cli.local", "The local ClearML-compatible server and its agent."),
    "launch": ("common.cli.launch", "Launch an instance through a ClearML queue."),
    "clone": ("common.cli.clone", "Launch a clone of a template or an instance."),
    "register": ("common.cli.register", "Template tasks to clone, one per app."),
    "run": ("common.cli.run", "Run an instance in this process, without an agent."),
    "validate": ("common.cli.inspect", "Check a configuration and say everything that is wrong."),
    "options": ("common.cli.inspect", "List every option of an app."),
    "command": ("common.cli.inspect", "Show what would run."),
    "export": ("common.cli.exchange", "Write an instance's configuration to a file."),
    "list": ("common.cli.instances", "The instances on the server."),
    "status": ("common.cli.instances", "What an instance does."),
    "logs": ("common.cli.instances", "An instance's console, also as it comes."),
    "stop": ("common.cli.instances", "Stop an instance: it drains first."),
    "open": ("common.cli.instances", "The page of an instance's task, or its own."),
    "key": ("common.cli.tasks", "Print the API key of an instance."),
    "keys": ("common.cli.keys", "Further API keys in a key file."),
    "token": ("common.cli.token", "Print a ClearML token, for instances that ask for one."),
    "docs": ("common.cli.docs", "Write or check the pages derived from the options."),
    "forms": ("common.cli.forms", "The launch forms of servers that have application forms."),
    "bench": ("common.cli.bench", "The benchmarks of a checkout."),
    "cache": ("common.cli.cache", "Models cached on this machine."),
}


class _Commands(ErrorsEndIt):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, help_text = _COMMANDS[cmd_name]
        loaded = importlib.import_module(module)
        # Some commands have the name of a builtin.
        command: click.Command = getattr(loaded, f"{cmd_name}_", None) or getattr(loaded, cmd_name)
        command.short_help = help_text
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="clearml-deploy", prog_name="clearml-deploy")
def main() -> None:
    """Deploy LLMs from ClearML tasks as OpenAI-compatible endpoints.

    \b
    Start here:
      clearml-deploy demo                        everything on this machine, in a minute
      clearml-deploy launch APP --queue gpu      on your server; asks for what is missing
      clearml-deploy register                    templates, to clone in the ClearML UI
      clearml-deploy list                        what runs

    APP is llamacpp, vllm or legacy_model. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
    """


if __name__ == "__main__":
    main()

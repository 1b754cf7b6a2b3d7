"""``clearml-deploy demo``: everything for real on one machine, in seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from common.demo.run import DemoRequest, run_demo


@click.command()
@click.option("--once", is_flag=True, help="Stop everything after the answer.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Data of the local server (default: as `clearml-deploy local`).",
)
@click.option(
    "--model",
    "model_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help="A GGUF file to use instead of SmolLM2.",
)
@click.option(
    "--prompt",
    default="What do plants need to grow?",
    show_default=True,
    help="What to ask the model.",
)
def demo(once: bool, data_dir: Path | None, model_file: Path | None, prompt: str) -> None:
    """Run a real model through a real ClearML queue and agent, and chat with it.

    Starts the local ClearML-compatible server and an agent, puts a small model into its registry,
    launches the llama.cpp app on the queue `default`, and streams one answer. Then it serves until
    Ctrl-C, which stops what the demo started.

    \b
    Examples:
      clearml-deploy demo
      clearml-deploy demo --once --prompt "Why is the sky blue?"
    """
    request = DemoRequest(is_once=once, data_dir=data_dir, model_file=model_file, prompt=prompt)
    sys.exit(run_demo(request))

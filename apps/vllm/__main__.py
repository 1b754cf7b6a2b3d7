"""The ClearML task script: ``python -m apps.vllm`` under an agent, or by hand with ``--set``."""

from common.cli.run import main

if __name__ == "__main__":
    main("vllm")

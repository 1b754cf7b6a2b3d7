"""The ClearML task script: ``python -m apps.legacy_model`` under an agent, or by hand with ``--set``."""

from common.cli.run import main

if __name__ == "__main__":
    main("legacy_model")

"""The applications: each package is a ClearML task script, run as ``python -m apps.<name>``."""

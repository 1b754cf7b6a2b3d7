"""Reads a task's scalars with the SDK, as a person's notebook does.

python -m tests.e2e.read_scalars TASK
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from clearml import Task

    task = Task.get_task(sys.argv[1])
    sys.stdout.write(f"SEEN {json.dumps(task.get_reported_scalars())}\n")


if __name__ == "__main__":
    main()

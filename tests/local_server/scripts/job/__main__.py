"""A task's own script, run by the agent as ``-m job``: reports, then waits to be aborted if asked."""

import sys
import time

from clearml import Task

sys.stdout.write("job: first line" + "\n")
sys.stdout.flush()
task = Task.init()
params = task.connect({"rate": 0.1, "wait_s": 0.0})
task.set_parameter("Status/status", "active")
task.get_logger().report_scalar("rate", "given", params["rate"], 1)


def on_abort() -> None:
    task.set_parameter("Status/status", "stopped")
    task.get_logger().report_scalar("abort", "called", 1, 2)
    # The agent kills at once when this returns: what was reported must be there by then.
    task.flush(wait_for_uploads=True)


task.register_abort_callback(on_abort, callback_execution_timeout=20)
end = time.monotonic() + params["wait_s"]
while time.monotonic() < end:
    time.sleep(0.1)
task.upload_artifact("result", {"rate": params["rate"]})
sys.stdout.write("job: done" + "\n")
sys.stdout.flush()

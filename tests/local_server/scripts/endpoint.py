"""Ask for external endpoints through the SDK, as an instance on an advanced server does."""

import json
import sys

from clearml import Task

task = Task.create(project_name="advanced", task_name="endpoints")
seen = {"task": task.id}
try:
    task.request_external_endpoint(port=8800, protocol="http", static_route="no-such-route")
except ValueError as error:
    seen["unknown_route"] = str(error)
seen["granted"] = task.request_external_endpoint(
    port=8800, protocol="http", static_route="llm", wait=True, wait_interval_seconds=0.1
)
seen["named"] = task.request_external_endpoint(
    port=8801, protocol="http", wait=True, wait_interval_seconds=0.1, endpoint_name="second"
)
# A full write of the runtime map must not take the address away.
task._set_runtime_properties({"_SERVICE": "EXTERNAL", "mine": "1"})
seen["after_edit"] = task.wait_for_external_endpoint(wait_timeout_seconds=2)
seen["tags"] = task.get_system_tags()
sys.stdout.write("\nSEEN " + json.dumps(seen) + "\n")
sys.stdout.flush()

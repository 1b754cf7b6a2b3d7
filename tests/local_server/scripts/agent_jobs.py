"""Put the repository's job on the queue twice: one run ends by itself, one waits to be aborted."""

import json
import sys

from clearml import Task

repository, branch = sys.argv[1:3]
seen = {}
base = Task.create(project_name="agent/jobs", task_name="a short job", task_type="inference")
base.set_script(repository=repository, branch=branch, working_dir=".", entry_point="-m job")
base.set_parameters({"General/rate": "0.25", "General/wait_s": "0"})
seen["short"] = base.id
long_job = Task.clone(source_task=base, name="a long job")
long_job.set_parameters({"General/wait_s": "120"})
seen["long"] = long_job.id
Task.enqueue(base, queue_name="default")
Task.enqueue(long_job, queue_name="default")
sys.stdout.write("SEEN " + json.dumps(seen) + "\n")
sys.stdout.flush()

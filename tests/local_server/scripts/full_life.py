"""The whole life of a task through the unmodified SDK; prints what it saw as one line of JSON."""

import json
import sys
from pathlib import Path

from clearml import InputModel, Model, OutputModel, Task
from clearml.backend_api.session.client import APIClient

folder = Path(sys.argv[1])
seen = {}

task = Task.init(
    project_name="life/first",
    task_name="whole life",
    task_type="inference",
    auto_connect_frameworks=False,
    auto_connect_arg_parser=False,
)
seen["task"] = task.id
params = task.connect({"rate": 0.5, "nested": {"count": 3}, "names": ["a", "b"]})
task.set_parameter("Status/status", "active")
task.connect_configuration({"layers": [1, 2], "name": "x"}, name="shape")
task.set_user_properties(owner="me", level=3)
task.add_tags(["one", "two"])
task.set_comment("a comment")
logger = task.get_logger()
for step in range(20):
    logger.report_scalar("loss", "train", 1.0 / (step + 1), step)
logger.report_single_value("accuracy", 0.75)
logger.report_text("a line of text")
logger.report_table("table", "rows", iteration=3, table_plot=[["a", "b"], [1, 2]])
logger.report_histogram("bars", "one", values=[1, 2, 3], iteration=4)
sys.stdout.write("a printed line\n")
task.upload_artifact("numbers", {"one": 1, "two": [2, 3]})
blob = folder / "blob.bin"
blob.write_bytes(bytes(range(256)) * 4096)
task.upload_artifact("blob", str(blob), wait_on_upload=True)
model = OutputModel(task=task, name="weights", framework="custom", tags=["m1"])
uri = model.update_weights(weights_filename=str(blob), auto_delete_file=False)
model.set_metadata("quant", "Q8_0", "str")
task.set_progress(50)
seen["status_running"] = task.get_status()
task.close()

again = Task.get_task(task_id=task.id)
seen["status"] = again.get_status()
seen["parameters"] = again.get_parameters()
seen["rate"] = again.get_parameters(cast=True)["General/rate"]
seen["configuration"] = again.get_configuration_object_as_dict("shape")
seen["properties"] = {k: v["value"] for k, v in again.get_user_properties().items()}
seen["tags"] = sorted(again.get_tags())
seen["comment"] = again.comment
seen["project"] = again.get_project_name()
seen["progress"] = again.get_progress()
scalars = again.get_reported_scalars()["loss"]["train"]
seen["scalar_points"] = [len(scalars["x"]), scalars["y"][0], scalars["y"][19]]
seen["last"] = again.get_last_scalar_metrics()["loss"]["train"]
seen["single"] = again.get_reported_single_values()
seen["last_iteration"] = again.get_last_iteration()
seen["console"] = "".join(again.get_reported_console_output(number_of_reports=20))
seen["plots"] = sorted(plot["metric"] for plot in again.get_reported_plots())
seen["artifact"] = again.artifacts["numbers"].get()
seen["blob"] = Path(again.artifacts["blob"].get_local_copy()).read_bytes() == blob.read_bytes()
seen["found"] = [t.id for t in Task.get_tasks(project_name="life/first", task_name="^whole life$")]
seen["by_tag"] = Task.query_tasks(project_name="life/first", tags=["one", "-three"])
seen["not_by_tag"] = Task.query_tasks(project_name="life/first", tags=["-one"])

stored = InputModel(model_id=model.id)
seen["model"] = [stored.name, stored.framework, stored.tags, stored.get_metadata("quant")]
copy = stored.get_local_copy(force_download=True)
seen["weights"] = Path(copy).read_bytes() == blob.read_bytes()
seen["queried"] = [m.id for m in Model.query_models(project_name="life/first", tags=["m1"])]
imported = InputModel.import_model("http://127.0.0.1:9/nothing.gguf", name="from elsewhere")
seen["imported"] = imported.url
stored.publish()
seen["published"] = Model(model_id=model.id).published
seen["model_removed"] = Model.remove(model.id, force=True, delete_weights_file=False)

clone = Task.clone(source_task=again, name="the clone")
seen["clone_status"] = clone.get_status()
seen["clone_parameters"] = clone.get_parameters() == again.get_parameters()
seen["clone_artifacts"] = sorted(clone.artifacts)
clone.set_parameters_as_dict({"General": {"rate": 0.9}})
clone.set_parameter("Model/temperature", 0.3)
clone.set_name("an edited clone")
clone.reload()
seen["clone_edited"] = [clone.name, clone.get_parameter("Model/temperature")]
Task.enqueue(clone, queue_name="default")
seen["clone_queued"] = clone.get_status()
Task.dequeue(clone)
seen["clone_dequeued"] = clone.get_status()
clone.mark_started(force=True)
clone.mark_failed(force=True, status_reason="why", status_message="what")
clone.reload()
seen["clone_failed"] = [clone.get_status(), clone.data.status_reason, clone.data.status_message]
clone.reset(force=True)
seen["clone_reset"] = [clone.get_status(), sorted(clone.get_parameters_as_dict())]
seen["archived"] = [clone.set_archived(True), clone.get_archived()]
seen["deleted"] = clone.delete(raise_on_error=True)
seen["gone"] = Task.query_tasks(task_name="an edited clone")
client = APIClient()
seen["workers"] = len(client.workers.get_all())
seen["queue"] = client.queues.get_by_id(client.queues.get_all(name="^default$")[0].id).name
client.queues.create(name="another queue")
seen["project_id"] = client.projects.get_by_id(again.project).name
seen["hyper_params"] = len(client.tasks.get_hyper_params(tasks=[again.id]).params[0]["hyperparams"])
again.reset(force=True)
again.reload()
seen["reset"] = [again.get_status(), sorted(again.artifacts), again.get_reported_scalars()]
seen["deleted_with_files"] = again.delete(raise_on_error=True)
sys.stdout.write("\nSEEN " + json.dumps(seen, default=str) + "\n")
sys.stdout.flush()

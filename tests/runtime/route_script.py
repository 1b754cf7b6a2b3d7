"""Has the real SDK ask for a route, with less patience than an instance has.

    python tests/runtime/route_script.py STATIC-ROUTE-OR-EMPTY PATIENCE-SECONDS LATE

Prints ``SEEN`` and what the runtime said, what it published, and how often it gave up waiting. With
LATE the route is granted, by an edit of the task, when the patience has ended.
"""

from __future__ import annotations

import asyncio
import json
import sys

from common.clearml.api import ClearMLApi
from common.clearml.external_endpoint import GrantedRoute, RouteRequest
from common.clearml.task import open_task
from common.runtime.external_route import ExternalRoute, RouteTimes


async def main(wish: str, patience_s: float, late: bool) -> None:
    task = open_task(project="routes", name="asks for a route", offline=False)
    lines: list[str] = []
    published: list[str] = []
    given_up = 0

    async def give_up() -> None:
        nonlocal given_up
        given_up += 1
        if late:
            runtime = {"endpoint": "https://late.example.com/llm/"}
            ClearMLApi().call("tasks", "edit", task=task.id, runtime=runtime, force=True)

    def publish(granted: GrantedRoute) -> None:
        published.append(granted.url)

    route = ExternalRoute(
        RouteRequest(task, ClearMLApi(), wish or None),
        wish=wish or None,
        own_url="http://own:8800",
        port=8800,
        log=lines.append,
        publish=publish,
        no_route=give_up,
        times=RouteTimes(look_every=0.1, tell_every=0.3, patience=patience_s, late_every=0.1),
    )
    running = asyncio.create_task(route.run())
    done, _ = await asyncio.wait({running}, timeout=patience_s + (10 if late else 1.5))
    running.cancel()
    seen = {
        "lines": lines,
        "published": published,
        "given_up": given_up,
        "is_over": bool(done),
        "id": task.id,
        "tags": task.sdk.get_system_tags(),
    }
    task.sdk.close()
    sys.stdout.write("\nSEEN " + json.dumps(seen) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:] == ["late"]))

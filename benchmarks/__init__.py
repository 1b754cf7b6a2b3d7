"""What the product costs beside the engine alone; each benchmark prints a table or JSON.

A benchmark is a module of this package, or a package of it with a ``__main__``, with a click command
`main`, run from a checkout as ``python -m benchmarks.NAME`` and, where the checkout is the working
directory, as ``clearml-deploy bench NAME``:

* ``start_time``: from the launch to the first token through a queue and an agent, against the same
  engine started by hand;
* ``throughput``: tokens per second through the gateway against the engine direct;
* ``switch_time``: from a request for a model that was put aside to its first token, against the same
  engines ended and started by hand;
* ``footprint``: memory and processor time of an idle instance without its engine;
* ``telemetry``: processor time that the record of one request costs;
* ``gateway``: what the gateway, nginx and other proxies cost in front of a stub engine.

Everything runs for real, on this machine, and is gone at the end. Nothing here is part of the
installed package.
"""

from __future__ import annotations

NAMES = ("start_time", "throughput", "switch_time", "footprint", "telemetry", "gateway")
"""The benchmarks, each a module or a package of this package with a click command `main`."""

"""What a proxy in front of an engine costs: the gateway beside nginx and other proxies.

``python -m benchmarks.gateway`` starts a stub engine, each proxy that is installed in front of it,
and measures them in turns; see ``benchmarks/README.md`` for the method. Each program of it is a module
that runs by itself:

* ``stub_engine``: answers at once or streams as it is told, in the request, by a `wire.Script`;
* ``load``: one measurement, in a process of its own;
* ``peers``: runners of the proxies that need one.
"""

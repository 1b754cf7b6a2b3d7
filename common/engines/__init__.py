"""Running inference engines: what an engine is, and the processes that run it."""

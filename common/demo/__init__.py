"""The demo: a real model through a local server, a queue and an agent."""

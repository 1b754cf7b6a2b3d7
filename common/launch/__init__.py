"""Launching: the task an agent can run, put into a queue, and followed until it serves."""

"""The ClearML side: the server's API, the instance's own task, and tasks to launch and manage."""

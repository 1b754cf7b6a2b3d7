"""Running an instance: the order of start and stop, and what an app has to provide."""

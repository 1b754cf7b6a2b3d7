"""vLLM in Python environments of its own, one for each version and build, in the user's cache."""

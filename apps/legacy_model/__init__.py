"""Model Deployment: the older form, one model on ``vllm serve``; the engine's code is that of `apps.vllm`."""

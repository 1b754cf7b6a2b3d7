"""vLLM Model Deployment: models of Hugging Face's formats on ``vllm serve``."""

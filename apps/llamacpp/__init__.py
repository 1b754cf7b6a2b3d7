"""llama.cpp Model Deployment: GGUF models on llama.cpp's server."""

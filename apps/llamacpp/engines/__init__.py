"""Three ways to run llama.cpp: a native llama-server, the xllamacpp wheel, llama_cpp.server."""

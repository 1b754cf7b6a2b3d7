"""What engines really printed, and what a user is told of it."""

from __future__ import annotations

import pytest

from apps.llamacpp.engines.diagnose import diagnose

TRUNCATED = """\
0.00.003.594 I srv    load_model: loading model 'trunc.gguf'
0.00.012.576 E llama_model_load: error loading model: tensor 'token_embd.weight' data is not within \
the file bounds, model is corrupted or incomplete
0.00.012.592 E llama_model_load_from_file_impl: failed to load model
0.00.020.802 E cmn  common_init_: failed to load model 'trunc.gguf'
0.00.020.810 I srv    operator(): operator(): cleaning up before exit...
0.00.021.188 E srv  llama_server: exiting due to model loading error"""
ARCHITECTURE = """\
0.00.003.983 E llama_model_load: error loading model: unknown model architecture: 'mysteryarch'
0.00.003.997 E llama_model_load_from_file_impl: failed to load model
0.00.004.361 E srv  llama_server: exiting due to model loading error"""
NOT_GGUF = """\
0.00.003.648 E gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'
0.00.003.735 E llama_model_load: error loading model: llama_model_loader: failed to load model from \
text.gguf
0.00.004.118 E srv  llama_server: exiting due to model loading error"""
EMPTY = """\
0.00.003.756 E gguf_init_from_reader: failed to read magic
0.00.003.907 E cmn  common_init_: failed to load model 'empty.gguf'"""
HEADER = """\
0.00.003.730 E gguf_init_from_reader: failed to read key-value pairs
0.00.004.207 E srv  llama_server: exiting due to model loading error"""
MISSING = """\
0.00.003.717 E gguf_init_from_file: failed to open GGUF file 'nonexist.gguf' (No such file or \
directory)
0.00.003.857 E cmn  common_init_: failed to load model 'nonexist.gguf'"""
BAD_VALUE = """\
error while handling argument "--ctx-size": stoi

usage:
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
                                        (env: LLAMA_ARG_CTX_SIZE)


to show complete usage, run with -h"""
BIND = """\
0.00.002.362 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080
0.00.002.413 E srv  llama_server: exiting due to HTTP server error"""
CUDA_OOM = """\
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8192.00 MiB on device 0: cudaMalloc failed: \
out of memory
alloc_tensor_range: failed to allocate CUDA0 buffer of size 8589934592
llama_model_load: error loading model: unable to allocate CUDA0 buffer
0.00.004.361 E srv  llama_server: exiting due to model loading error"""
CUDA_OOM_SERVING = """\
0.00.242.646 I srv  llama_server: model loaded
CUDA error: out of memory
/src/ggml/src/ggml-cuda/ggml-cuda.cu:83: CUDA error"""
WHEEL_REFUSES = "error: argument --rpc has no effect: the xllamacpp wheel cannot do --rpc"
WHEEL_UNKNOWN = "error: argument --bogus is no flag of this engine; did you mean --verbose?"
WHEEL_ENDS = """\
0.00.034.192 E srv          init: exiting due to model loading error
error: Failed to init server, please check the input params."""
PYTHON_ARCHITECTURE = """\
llama_model_load: error loading model: unknown model architecture: 'mysteryarch'
llama_model_load_from_file_impl: failed to load model
error: Failed to load model from file: arch.gguf"""
PYTHON_MISSING = "error: Model path does not exist: nonexist.gguf"
PYTHON_BUSY = (
    "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8997): address "
    "already in use"
)
LIBRARY = (
    "/x/llama-server: error while loading shared libraries: libllama.so: cannot open shared object "
    "file: No such file or directory"
)


@pytest.mark.parametrize(
    ("code", "output", "is_configuration", "words"),
    [
        (1, TRUNCATED, True, "truncated: its tensor 'token_embd.weight'"),
        (1, ARCHITECTURE, True, "architecture 'mysteryarch'"),
        (1, PYTHON_ARCHITECTURE, True, "architecture 'mysteryarch'"),
        (1, NOT_GGUF, True, "not GGUF"),
        (1, EMPTY, True, "header cannot be read"),
        (1, HEADER, True, "header cannot be read"),
        (1, MISSING, True, "cannot open the model file"),
        (1, PYTHON_MISSING, True, "cannot open the model file"),
        (1, "error: invalid argument: --bogus", True, "no argument --bogus"),
        (1, BAD_VALUE, True, "the value of --ctx-size: stoi"),
        (1, WHEEL_REFUSES, True, "refuses --rpc"),
        (1, WHEEL_UNKNOWN, True, "refuses --bogus"),
        (1, WHEEL_ENDS, True, "could not load the model"),
        (1, BIND, False, "in use"),
        (1, PYTHON_BUSY, False, "in use"),
        (1, CUDA_OOM, True, "did not get the memory"),
        (134, CUDA_OOM_SERVING, False, "did not get the memory"),
        (127, LIBRARY, True, "lacks the library libllama.so"),
        (137, "0.00.242.646 I srv  llama_server: model loaded", False, "killed"),
        (139, ARCHITECTURE, False, "SIGSEGV"),
        (132, "", True, "another kind of processor"),
        (134, "", False, "SIGABRT"),
        (1, "GGML_ASSERT(x) failed\nsomething", False, "GGML_ASSERT(x) failed"),
        (1, "", False, "said nothing"),
        (None, "0.00.003.594 I srv    load_model: loading model 'a.gguf'", False, "loading model"),
    ],
)
def test_diagnosis(code: int | None, output: str, is_configuration: bool, words: str) -> None:
    found = diagnose(code, output.splitlines())
    assert words in found.summary
    assert found.is_configuration is is_configuration
    assert found.lacks_memory is (words == "did not get the memory")

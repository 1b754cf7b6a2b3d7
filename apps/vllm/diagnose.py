"""Why a vLLM ended, from its exit code and its last lines. Pure.

A cause is looked for in what the engine's processes raised: `vllm serve` runs several, each failure
is told by all of them, and the last one only says that another failed. The patterns are the words of
versions from 0.6.6 on; the tests hold such output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.engines.contract import Diagnosis

_SIGNALLED = 128
_KILL, _SEGV, _ABRT, _ILL, _BUS = 9, 11, 6, 4, 7
_SHOWN = 300

# "(EngineCore pid=7) ERROR 11-20 12:20:22 [core.py:1510] ValueError: ...", with or without its parts.
_PREFIX = re.compile(
    r"^(?:\([\w. -]+(?: pid=\d+)?(?:, [^)]*)?\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):? +"
    r"(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[\w./]+:\d+\] ?)?)?"
)
_QUIET = {"DEBUG", "INFO", "WARNING"}
_EXCEPTION = re.compile(
    r"^(?:[\w.]+\.)?(?P<kind>\w*(?:Error|Exception|Interrupt))(?:: (?P<text>.+))?$"
)
# Exceptions that only tell of another one.
_SECONDHAND = re.compile(
    r"Engine core initialization failed|See root cause|EngineDeadError|Engine process failed|"
    r"See stack trace above|Failed core proc"
)
_DIED = re.compile(r"EngineDeadError|died unexpectedly")
_SERVING = re.compile(r"Application startup complete|Uvicorn running on")


@dataclass(frozen=True)
class _Rule:
    """One cause: found when a line matches; `summary` gets the groups of the match."""

    pattern: re.Pattern[str]
    summary: str
    is_configuration: bool = True


def _rule(pattern: str, summary: str, *, is_configuration: bool = True) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE), summary, is_configuration)


# In this order: a precise cause before the general failure that follows it.
_RULES = (
    # -- what it was told ---------------------------------------------------------------------
    _rule(
        r"error: unrecognized arguments: (?P<flags>.+)",
        "This vLLM has no argument {flags}.",
    ),
    _rule(
        r"error: ambiguous option: (?P<flag>\S+) could match (?P<which>.+)",
        "This vLLM has no argument {flag}, only some that begin so: {which}.",
    ),
    _rule(
        r"error: argument (?P<flag>[^:]+): (?P<why>.+)",
        "vLLM refuses the value of {flag}: {why}.",
    ),
    _rule(
        r"User-specified max_model_len \((?P<given>\d+)\) is greater than the derived "
        r"max_model_len \((?P<key>\w+)=(?P<own>\d+)",
        '"Max Context Length" {given} is above the model\'s own {own} ({key}): set {own} or less.',
    ),
    _rule(
        r"model's max seq len \((?P<asked>\d+)\).*?estimated maximum model length is (?P<fits>\d+)",
        'The KV cache has no room for one request of {asked} tokens: set "Max Context Length" to '
        "{fits} or less, or give the engine more memory.",
    ),
    _rule(
        r"model's max seq len \((?P<asked>\d+)\) is larger than the maximum number of tokens that "
        r"can be stored in KV cache \((?P<fits>\d+)\)",
        'The KV cache has no room for one request of {asked} tokens: set "Max Context Length" to '
        "{fits} or less, or give the engine more memory.",
    ),
    _rule(
        r"estimated maximum model length is (?P<fits>\d+)",
        'The KV cache has no room for one whole request: set "Max Context Length" to {fits} or less, '
        "or give the engine more memory.",
    ),
    _rule(
        r"model's max seq len \((?P<asked>\d+)\).*KV cache is needed",
        'The KV cache has no room for one request of {asked} tokens: set a smaller "Max Context '
        'Length", or give the engine more memory.',
    ),
    _rule(
        r"No available memory for the cache blocks",
        'The weights leave no memory for the KV cache: raise "GPU Memory Utilization", use more GPUs '
        "or a smaller or quantized model.",
    ),
    _rule(
        r"Free memory on device.*is less than desired GPU memory utilization",
        'Less GPU memory is free than "GPU Memory Utilization" asks for: lower it, or free the GPU.',
        # The memory of one that crashed is not free at once.
        is_configuration=False,
    ),
    _rule(
        r"Available memory on node|kv cache allocation is less than requested memory",
        "Less host memory is free than the KV cache is to have: lower VLLM_CPU_KVCACHE_SPACE (GiB), "
        "or use a machine with more memory.",
    ),
    _rule(
        r"(?:CUDA|HIP|XPU) out of memory|OutOfMemoryError|CUDA error: out of memory|"
        r"not enough GPU memory",
        'The GPU memory is not enough: use more GPUs ("GPUs (Tensor Parallel Size)"), a quantized '
        'or smaller model, or a smaller "Max Context Length" or "Max Number of Sequences".',
    ),
    _rule(
        r"DefaultCPUAllocator: (?:can't|not enough) .*memory|^MemoryError|Cannot allocate memory|"
        r"std::bad_alloc",
        "The host memory is not enough: use a smaller model, or a machine with more memory.",
    ),
    _rule(
        r"max_num_batched_tokens \((?P<batched>\d+)\) is smaller than max_model_len \((?P<own>\d+)\)",
        '"Max Num Batched Tokens" {batched} is less than the context of {own} tokens: set it to '
        "{own} or more, or switch chunked prefill on.",
    ),
    _rule(
        r"(?:Total )?number of attention heads \((?P<heads>\d+)\) must be divisible by tensor "
        r"parallel size \((?P<size>\d+)\)",
        '"GPUs (Tensor Parallel Size)" {size} does not divide the model\'s {heads} attention heads: '
        "choose a number that does.",
    ),
    _rule(
        r"World size \((?P<size>\d+)\) is larger than the number of available GPUs \((?P<gpus>\d+)\)",
        "It was told to use {size} GPUs, and there are {gpus}.",
    ),
    # -- LoRA, speculation, quantization ------------------------------------------------------
    _rule(
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<limit>\d+)",
        'A LoRA adapter has rank {rank}, and "Max LoRA Rank" is {limit}: set it to {rank} or more.',
    ),
    _rule(
        r"Loading lora (?P<name>\S+) failed",
        "The LoRA adapter {name} cannot be loaded.",
    ),
    _rule(
        r"max_cpu_loras \((?P<cpu>\d+)\) must be >= max_loras \((?P<gpu>\d+)\)",
        '"Max CPU LoRAs" {cpu} is less than "Max LoRAs" {gpu}: set it to {gpu} or more.',
    ),
    _rule(
        r"Target and draft model should have the same vocabulary size.*vocab_size=(?P<target>\d+)\."
        r".*vocab_size=(?P<draft>\d+)",
        "The draft model has another vocabulary ({draft} tokens) than the model ({target}): choose a "
        "draft model of the same family.",
    ),
    _rule(
        r"num_speculative_tokens.* was not provided",
        '"Speculative model" needs "Num Speculative Tokens".',
    ),
    _rule(
        r"validation errors? for SpeculativeConfig",
        "The settings for speculative decoding do not suit this vLLM.",
    ),
    _rule(
        r"Unknown quantization method: (?P<name>\S+?)\. ",
        'This vLLM has no "Quantization" {name}.',
    ),
    _rule(
        r"specified in the model config \((?P<own>[^)]+)\) does not match the quantization method "
        r"specified in the `quantization` argument \((?P<given>[^)]+)\)",
        'The model is quantized by {own}, and "Quantization" says {given}: leave it empty.',
    ),
    _rule(
        r"Cannot find the config file for (?P<name>\S+)",
        'The model is not quantized by {name}: leave "Quantization" empty, or use a model that is.',
    ),
    _rule(
        r"quantization method \S+ is not supported",
        "This GPU or this vLLM does not support the model's quantization.",
    ),
    # -- the model ----------------------------------------------------------------------------
    _rule(
        r"trust_remote_code=True|requires you to execute the (?:configuration|modeling) file|"
        r"contains custom code which must be executed",
        "The model brings code of its own, which is run only when allowed: switch on "
        '"Trust Remote Code" (Model/trust_remote_code, or General/trust_remote_code for all models) '
        "if you trust it.",
    ),
    _rule(
        r"Model architectures \[(?P<names>[^\]]*)\] (?:are not supported|failed to be inspected)",
        "This vLLM does not know the model's architecture {names}: use a newer vLLM (General/"
        "vllm_version), or a model that it supports.",
    ),
    _rule(
        r"No model architectures are specified",
        "The model's config.json names no architecture.",
    ),
    _rule(
        r"model type `(?P<name>[^`]+)` but Transformers does not recognize",
        "The Transformers library of this vLLM does not know the model type {name}: use a newer vLLM "
        "(General/vllm_version).",
    ),
    _rule(
        r"Access to model (?P<name>\S+) is restricted|GatedRepoError|Cannot access gated repo",
        "The model is gated: accept its terms on Hugging Face and give a token (General/"
        "hugging_face_token, or HF_TOKEN in the worker's environment).",
    ),
    _rule(
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer|"
        r"does not appear to have a file named tokenizer|Unable to load vocabulary|"
        r"Can't load the tokenizer",
        'The model\'s tokenizer is missing or cannot be read: name one in "Tokenizer" '
        "(Model/tokenizer).",
    ),
    _rule(
        r"SafetensorError: (?P<why>.+)",
        "The weights are damaged or incomplete ({why}): fetch them again.",
    ),
    _rule(
        r"Cannot find any model weights",
        "The model's folder has no weights.",
    ),
    _rule(
        r"Attempted to load weight|size mismatch|shape mismatch|exceeds dimension size|"
        r"not initialized from checkpoint|"
        r"There is no module or parameter named",
        "The weights do not fit the model's config.json.",
    ),
    _rule(
        r"Invalid repository ID or local directory|Repo id must|is not a valid model identifier|"
        r"LocalEntryNotFoundError|RepositoryNotFoundError",
        "A model or tokenizer that it was told to load is not there.",
    ),
    # -- other settings -----------------------------------------------------------------------
    _rule(
        r"invalid reasoning parser: (?P<name>\S+)|Reasoning parser '(?P<other>[^']+)' not found",
        'This vLLM has no such "Reasoning Parser".',
    ),
    _rule(
        r"invalid tool call parser: (?P<name>\S+)|Tool parser '(?P<other>[^']+)' not found",
        'This vLLM has no such "Tool Call Parser".',
    ),
    _rule(
        r"requires --tool-call-parser",
        '"Enable Auto Tool Choice" needs "Tool Call Parser".',
    ),
    _rule(
        r"chat template .*(?:does not exist|doesn't exist|looks like a file path)",
        "The chat template that it was told to use is not there.",
    ),
    _rule(
        r"Sleep mode is not supported",
        "Models cannot be put to sleep on this machine: it has no GPU that vLLM supports.",
    ),
    _rule(
        r"Failed to import Ray|No module named 'ray'|Ray is not installed",
        '"Distributed Executor Backend" is ray, which is not installed beside this vLLM: choose mp, '
        "or install ray.",
    ),
    # -- the machine --------------------------------------------------------------------------
    _rule(
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|"
        r"unsupported toolchain|forward compatibility was attempted",
        "The NVIDIA driver is too old for this vLLM: update it, or choose an older vLLM (General/"
        "vllm_version).",
    ),
    _rule(
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|"
        r"no CUDA-capable device|libcuda\.so\.1: cannot open|device type must not be empty|"
        r"Device string must not be empty",
        "This vLLM needs a GPU and sees none. On a machine without one, ask for the CPU build "
        "(General/device = cpu).",
    ),
    _rule(
        r"invalid device ordinal",
        "It cannot use the GPUs it was told to use: look at CUDA_VISIBLE_DEVICES.",
    ),
    _rule(
        r"no kernel image is available|only supported on GPUs with compute capability|"
        r"compute capability (?:at least|of at least|>=)|Minimum (?:compute )?capability",
        "This vLLM, or one of its options, does not support this kind of GPU.",
    ),
    _rule(
        r"address already in use|EADDRINUSE|errno 98\b",
        "The address that the engine was to listen on is in use.",
        is_configuration=False,
    ),
    _rule(
        r"No space left on device",
        "The disk, or the shared memory (/dev/shm), is full.",
    ),
    _rule(
        r"error while loading shared libraries: (?P<library>[^:]+)|"
        r"ImportError: (?P<other>lib\S+): cannot open shared object file",
        "The engine lacks the library {library}{other}.",
    ),
    _rule(
        r"(?:ModuleNotFoundError: )?No module named '?(?P<module>[\w.]+)'?",
        "The engine's Python lacks the module {module}: install it into its environment.",
    ),
    _rule(
        r"validation errors? for (?P<which>\w*Config)",
        "vLLM refuses a setting ({which}).",
    ),
)


def diagnose(exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
    """Tell a configuration error, which would fail again, from a crash.

    Args:
        exit_code: Its exit code, 128 + n for signal n; None when it never became ready.
        tail: Its last lines, oldest first.

    Returns:
        The cause, with the engine's own line where that says more than the summary.
    """
    lines = list(_spoken(tail))
    by_signal = _by_signal(exit_code)
    if by_signal is not None and exit_code != _SIGNALLED + _ABRT:
        return by_signal
    # What served once can serve again: then it was the requests, not the settings.
    has_served = any(_SERVING.search(line) for line in tail)
    for rule in _RULES:
        for number, line in enumerate(lines):
            if match := rule.pattern.search(line):
                values = {name: value or "" for name, value in match.groupdict().items()}
                summary = f"{rule.summary.format(**values)} It says: {_said(lines, number)}"
                return Diagnosis(rule.is_configuration and not has_served, summary)
    return by_signal or Diagnosis(False, _unexplained(lines))


def _spoken(tail: Sequence[str]) -> Iterator[str]:
    """The lines of errors, without their prefixes: what only informs quotes settings and advice."""
    for raw in tail:
        line = raw.rstrip()
        prefix = _PREFIX.match(line)
        assert prefix is not None  # all its parts are optional
        if prefix["level"] not in _QUIET and (text := line[prefix.end() :].strip()):
            yield text


def _said(lines: Sequence[str], number: int) -> str:
    """The engine's own words: the line, and the next where the line only announces it."""
    line = lines[number]
    if line.endswith(("Config", "Config:")) and number + 1 < len(lines):
        line = f"{line}: {' '.join(lines[number + 1 : number + 3])}"
    # pydantic quotes its input after the message.
    return re.sub(r" \[type=\w+, input_value=.*", "", line)[:_SHOWN]


def _by_signal(exit_code: int | None) -> Diagnosis | None:
    if exit_code is None or exit_code < _SIGNALLED or exit_code > _SIGNALLED + 64:
        return None
    number = exit_code - _SIGNALLED
    if number == _ILL:
        return Diagnosis(
            True,
            "The engine was built for another kind of processor (illegal instruction): install a "
            "build for this machine.",
        )
    words = {
        _KILL: "Something outside killed the engine (SIGKILL), usually for lack of memory.",
        _SEGV: "The engine crashed (SIGSEGV).",
        _ABRT: "The engine gave up on an error of its own (SIGABRT).",
        _BUS: "The engine could not use its memory (SIGBUS): usually /dev/shm is too small; in a "
        "container give it more (--shm-size).",
    }
    return Diagnosis(False, words.get(number, f"The engine was ended by signal {number}."))


def _unexplained(lines: Sequence[str]) -> str:
    """The first exception that does not only tell of another; else what there is."""
    raised = [line for line in lines if _EXCEPTION.match(line)]
    own = [line for line in raised if not _SECONDHAND.search(line)]
    if not own and any(_DIED.search(line) for line in lines):
        return "One of the engine's processes died without a word, perhaps for lack of memory."
    line = next(iter([*own, *raised[-1:], *reversed(lines)]), "")
    return f"It says: {line[:_SHOWN]}" if line else "It said nothing."

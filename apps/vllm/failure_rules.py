"""What a vLLM says when it cannot go on, and what that means. The words of versions from 0.6.6 on."""

from __future__ import annotations

from common.engines.diagnosis import failure_rule

# In this order: a precise cause before the general failure that follows it.
RULES = (
    # -- what it was told ---------------------------------------------------------------------
    failure_rule(
        r"error: unrecognized arguments: (?P<flags>.+)",
        "This vLLM has no argument {flags}.",
    ),
    failure_rule(
        r"error: ambiguous option: (?P<flag>\S+) could match (?P<which>.+)",
        "This vLLM has no argument {flag}, only some that begin so: {which}.",
    ),
    failure_rule(
        r"error: argument (?P<flag>[^:]+): (?P<why>.+)",
        "vLLM refuses the value of {flag}: {why}.",
    ),
    failure_rule(
        r"User-specified max_model_len \((?P<given>\d+)\) is greater than the derived "
        r"max_model_len \((?P<key>\w+)=(?P<own>\d+)",
        '"Max Context Length" {given} is above the model\'s own {own} ({key}): set {own} or less.',
    ),
    failure_rule(
        r"model's max seq len \((?P<asked>\d+)\).*?estimated maximum model length is (?P<fits>\d+)",
        'The KV cache has no room for one request of {asked} tokens: set "Max Context Length" to '
        "{fits} or less, or give the engine more memory.",
    ),
    failure_rule(
        r"model's max seq len \((?P<asked>\d+)\) is larger than the maximum number of tokens that "
        r"can be stored in KV cache \((?P<fits>\d+)\)",
        'The KV cache has no room for one request of {asked} tokens: set "Max Context Length" to '
        "{fits} or less, or give the engine more memory.",
    ),
    failure_rule(
        r"estimated maximum model length is (?P<fits>\d+)",
        'The KV cache has no room for one whole request: set "Max Context Length" to {fits} or less, '
        "or give the engine more memory.",
    ),
    failure_rule(
        r"model's max seq len \((?P<asked>\d+)\).*KV cache is needed",
        'The KV cache has no room for one request of {asked} tokens: set a smaller "Max Context '
        'Length", or give the engine more memory.',
    ),
    failure_rule(
        r"No available memory for the cache blocks",
        'The weights leave no memory for the KV cache: raise "GPU Memory Utilization", use more GPUs '
        "or a smaller or quantized model.",
    ),
    failure_rule(
        r"Free memory on device.*is less than desired GPU memory utilization",
        'Less GPU memory is free than "GPU Memory Utilization" asks for: lower it, or free the GPU.',
        # The memory of one that crashed is not free at once.
        is_configuration=False,
        lacks_memory=True,
    ),
    failure_rule(
        r"Available memory on node|kv cache allocation is less than requested memory",
        "Less host memory is free than the KV cache is to have: lower VLLM_CPU_KVCACHE_SPACE (GiB), "
        "or use a machine with more memory.",
        lacks_memory=True,
    ),
    failure_rule(
        r"(?:CUDA|HIP|XPU) out of memory|OutOfMemoryError|CUDA error: out of memory|"
        r"not enough GPU memory",
        'The GPU memory is not enough: use more GPUs ("GPUs (Tensor Parallel Size)"), a quantized '
        'or smaller model, or a smaller "Max Context Length" or "Max Number of Sequences".',
        lacks_memory=True,
    ),
    failure_rule(
        r"DefaultCPUAllocator: (?:can't|not enough) .*memory|^MemoryError|Cannot allocate memory|"
        r"std::bad_alloc",
        "The host memory is not enough: use a smaller model, or a machine with more memory.",
        lacks_memory=True,
    ),
    failure_rule(
        r"max_num_batched_tokens \((?P<batched>\d+)\) is smaller than max_model_len \((?P<own>\d+)\)",
        '"Max Num Batched Tokens" {batched} is less than the context of {own} tokens: set it to '
        "{own} or more, or switch chunked prefill on.",
    ),
    failure_rule(
        r"(?:Total )?number of attention heads \((?P<heads>\d+)\) must be divisible by tensor "
        r"parallel size \((?P<size>\d+)\)",
        '"GPUs (Tensor Parallel Size)" {size} does not divide the model\'s {heads} attention heads: '
        "choose a number that does.",
    ),
    failure_rule(
        r"World size \((?P<size>\d+)\) is larger than the number of available GPUs \((?P<gpus>\d+)\)",
        "It was told to use {size} GPUs, and there are {gpus}.",
    ),
    # -- LoRA, speculation, quantization ------------------------------------------------------
    failure_rule(
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<limit>\d+)",
        'A LoRA adapter has rank {rank}, and "Max LoRA Rank" is {limit}: set it to {rank} or more.',
    ),
    failure_rule(
        r"Loading lora (?P<name>\S+) failed",
        "The LoRA adapter {name} cannot be loaded.",
    ),
    failure_rule(
        r"max_cpu_loras \((?P<cpu>\d+)\) must be >= max_loras \((?P<gpu>\d+)\)",
        '"Max CPU LoRAs" {cpu} is less than "Max LoRAs" {gpu}: set it to {gpu} or more.',
    ),
    failure_rule(
        r"Target and draft model should have the same vocabulary size.*vocab_size=(?P<target>\d+)\."
        r".*vocab_size=(?P<draft>\d+)",
        "The draft model has another vocabulary ({draft} tokens) than the model ({target}): choose a "
        "draft model of the same family.",
    ),
    failure_rule(
        r"num_speculative_tokens.* was not provided",
        '"Speculative model" needs "Num Speculative Tokens".',
    ),
    failure_rule(
        r"validation errors? for SpeculativeConfig",
        "The settings for speculative decoding do not suit this vLLM.",
    ),
    failure_rule(
        r"Unknown quantization method: (?P<name>\S+?)\. ",
        'This vLLM has no "Quantization" {name}.',
    ),
    failure_rule(
        r"specified in the model config \((?P<own>[^)]+)\) does not match the quantization method "
        r"specified in the `quantization` argument \((?P<given>[^)]+)\)",
        'The model is quantized by {own}, and "Quantization" says {given}: leave it empty.',
    ),
    failure_rule(
        r"Cannot find the config file for (?P<name>\S+)",
        'The model is not quantized by {name}: leave "Quantization" empty, or use a model that is.',
    ),
    failure_rule(
        r"quantization method \S+ is not supported",
        "This GPU or this vLLM does not support the model's quantization.",
    ),
    # -- the model ----------------------------------------------------------------------------
    failure_rule(
        r"trust_remote_code=True|requires you to execute the (?:configuration|modeling) file|"
        r"contains custom code which must be executed",
        "The model brings code of its own, which is run only when allowed: switch on "
        '"Trust Remote Code" (Model/trust_remote_code, or General/trust_remote_code for all models) '
        "if you trust it.",
    ),
    failure_rule(
        r"Model architectures \[(?P<names>[^\]]*)\] (?:are not supported|failed to be inspected)",
        "This vLLM does not know the model's architecture {names}: use a newer vLLM (General/"
        "vllm_version), or a model that it supports.",
    ),
    failure_rule(
        r"No model architectures are specified",
        "The model's config.json names no architecture.",
    ),
    failure_rule(
        r"model type `(?P<name>[^`]+)` but Transformers does not recognize",
        "The Transformers library of this vLLM does not know the model type {name}: use a newer vLLM "
        "(General/vllm_version).",
    ),
    failure_rule(
        r"Access to model (?P<name>\S+) is restricted|GatedRepoError|Cannot access gated repo",
        "The model is gated: accept its terms on Hugging Face and give a token (General/"
        "hugging_face_token, or HF_TOKEN in the worker's environment).",
    ),
    failure_rule(
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer|"
        r"does not appear to have a file named tokenizer|Unable to load vocabulary|"
        r"Can't load the tokenizer",
        'The model\'s tokenizer is missing or cannot be read: name one in "Tokenizer" '
        "(Model/tokenizer).",
    ),
    failure_rule(
        r"SafetensorError: (?P<why>.+)",
        "The weights are damaged or incomplete ({why}): fetch them again.",
    ),
    failure_rule(
        r"Cannot find any model weights",
        "The model's folder has no weights.",
    ),
    failure_rule(
        r"Attempted to load weight|size mismatch|shape mismatch|exceeds dimension size|"
        r"not initialized from checkpoint|"
        r"There is no module or parameter named",
        "The weights do not fit the model's config.json.",
    ),
    failure_rule(
        r"Invalid repository ID or local directory|Repo id must|is not a valid model identifier|"
        r"LocalEntryNotFoundError|RepositoryNotFoundError",
        "A model or tokenizer that it was told to load is not there.",
    ),
    # -- other settings -----------------------------------------------------------------------
    failure_rule(
        r"invalid reasoning parser: (?P<name>\S+)|Reasoning parser '(?P<other>[^']+)' not found",
        'This vLLM has no such "Reasoning Parser".',
    ),
    failure_rule(
        r"invalid tool call parser: (?P<name>\S+)|Tool parser '(?P<other>[^']+)' not found",
        'This vLLM has no such "Tool Call Parser".',
    ),
    failure_rule(
        r"requires --tool-call-parser",
        '"Enable Auto Tool Choice" needs "Tool Call Parser".',
    ),
    failure_rule(
        r"chat template .*(?:does not exist|doesn't exist|looks like a file path)",
        "The chat template that it was told to use is not there.",
    ),
    failure_rule(
        r"Sleep mode is not supported",
        "Models cannot be put to sleep on this machine: it has no GPU that vLLM supports.",
    ),
    failure_rule(
        r"Failed to import Ray|No module named 'ray'|Ray is not installed",
        '"Distributed Executor Backend" is ray, which is not installed beside this vLLM: choose mp, '
        "or install ray.",
    ),
    # -- the machine --------------------------------------------------------------------------
    failure_rule(
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|"
        r"unsupported toolchain|forward compatibility was attempted",
        "The NVIDIA driver is too old for this vLLM: update it, or choose an older vLLM (General/"
        "vllm_version).",
    ),
    failure_rule(
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|"
        r"no CUDA-capable device|libcuda\.so\.1: cannot open|device type must not be empty|"
        r"Device string must not be empty",
        "This vLLM needs a GPU and sees none. On a machine without one, ask for the CPU build "
        "(General/device = cpu).",
    ),
    failure_rule(
        r"invalid device ordinal",
        "It cannot use the GPUs it was told to use: look at CUDA_VISIBLE_DEVICES.",
    ),
    failure_rule(
        r"no kernel image is available|only supported on GPUs with compute capability|"
        r"compute capability (?:at least|of at least|>=)|Minimum (?:compute )?capability",
        "This vLLM, or one of its options, does not support this kind of GPU.",
    ),
    failure_rule(
        r"address already in use|EADDRINUSE|errno 98\b",
        "The address that the engine was to listen on is in use.",
        is_configuration=False,
    ),
    failure_rule(
        r"No space left on device",
        "The disk, or the shared memory (/dev/shm), is full.",
    ),
    failure_rule(
        r"error while loading shared libraries: (?P<library>[^:]+)|"
        r"ImportError: (?P<other>lib\S+): cannot open shared object file",
        "The engine lacks the library {library}{other}.",
    ),
    failure_rule(
        r"(?:ModuleNotFoundError: )?No module named '?(?P<module>[\w.]+)'?",
        "The engine's Python lacks the module {module}: install it into its environment.",
    ),
    failure_rule(
        r"validation errors? for (?P<which>\w*Config)",
        "vLLM refuses a setting ({which}).",
    ),
)

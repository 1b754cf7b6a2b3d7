"""Every option of the llama.cpp Model Deployment app, declared once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from common.errors import Problem
from common.options.cli_field import last_value, mentions
from common.options.declaration import like, option
from common.options.memory import MemoryBudgetOptions, MemoryOptions, OffloadOptions
from common.options.requests import RequestOptions
from common.options.settings import AppSettings, ModelOptions, RequestLimits, queue_problems
from common.options.shared import DebugOptions, IdleOptions
from common.runtime.endpoint_names import (
    endpoint_problems,
    name_problems,
    preliminary_name,
    reference_problems,
)

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
EngineChoice = Literal["auto", "llama-server", "xllamacpp", "llama_cpp.server"]


class LlamaCppModel(ModelOptions):
    """One model: the form's "Model Configuration" item."""

    cli: str | None = option(
        "CLI",
        multiline=True,
        help="llama.cpp CLI arguments. If set, they replace the engine options of this form; Model and "
        "the fields that are not the engine's (endpoint name, concurrency, memory) still apply.",
        placeholder="--ctx-size 8192 --temp 0.7",
    )
    verbose: bool | None = option(
        "Verbose",
        flag="--verbose",
        help="Detailed logging of the engine, each request and parts of prompts among it.",
    )
    no_mmap: bool | None = option(
        "No MMAP",
        help="Do not memory-map the model files. May improve performance on some systems but needs more "
        "memory.",
    )
    continuous_batching: bool | None = option(
        "Continuous Batching",
        flag="--cont-batching",
        no_flag="--no-cont-batching",
        help="Process several requests together. Better throughput with concurrent requests.",
    )
    embedding: bool | None = option(
        "Embedding",
        flag="--embeddings",
        help="Serve embeddings instead of text generation, for semantic search and similarity.",
    )
    model: str | None = option(
        "Model",
        required=True,
        help="A ClearML model ID, a file of a Hugging Face repository (provider/repo/path/to/model.gguf, "
        "wildcards allowed) or a local path. The format must be GGUF.",
        placeholder="provider/repo/path/to/model.gguf",
    )
    model_endpoint_name: str | None = option(
        "Model Endpoint Name",
        help="Name for API access. Empty: the model reference, the file's stem for a local path, the "
        "model's name for a ClearML ID.",
    )
    number_of_gpu_layers: int | None = option(
        "Number of GPU Layers",
        flag="--gpu-layers",
        ge=-1,
        help="Layers kept in VRAM instead of system RAM. 9999 loads all of them into VRAM.",
    )
    repeat_penalty: float | None = option(
        "Repeat Penalty",
        flag="--repeat-penalty",
        ge=0,
        help="Penalty for repeated token sequences. 1.0 disables it.",
    )
    temperature: float | None = option(
        "Temperature",
        flag="--temp",
        ge=0,
        help="Randomness of the text: higher is more creative, lower more predictable.",
    )
    top_k: int | None = option(
        "Top-K", flag="--top-k", ge=0, help="How many of the likeliest tokens are considered."
    )
    top_p: float | None = option(
        "Top-P",
        flag="--top-p",
        ge=0,
        le=1,
        help="Nucleus sampling: only the likeliest tokens whose probabilities add up to P.",
    )
    min_p: float | None = option(
        "Min-P",
        flag="--min-p",
        ge=0,
        le=1,
        help="Tokens below this probability, relative to the likeliest, are excluded.",
    )
    xtc_probability: float | None = option(
        "XTC Probability",
        flag="--xtc-probability",
        ge=0,
        le=1,
        help="Probability of applying XTC sampling at a token.",
    )
    xtc_threshold: float | None = option(
        "XTC Threshold",
        flag="--xtc-threshold",
        ge=0,
        le=1,
        help="Probability from which a token counts for XTC.",
    )
    typical_p: float | None = option(
        "Typical-P",
        flag="--typical",
        ge=0,
        le=1,
        help="Locally typical sampling. 1.0 disables it.",
    )
    repeat_last_n: int | None = option(
        "Repeat Last N",
        flag="--repeat-last-n",
        ge=-1,
        help="How many of the last tokens the repeat penalty looks at. 0 disables it, -1 is the context.",
    )
    context_size: int | None = option(
        "Context Size",
        ge=0,
        help="Tokens that one request can use, prompt and answer together. 0 or empty: what the model was "
        "trained with.",
    )
    rope_frequency_base: float | None = option(
        "RoPE Frequency Base",
        flag="--rope-freq-base",
        gt=0,
        help="Base frequency of the rotary position embedding. Empty: the model's own, often 10000.0.",
    )
    rope_scaling: float | None = option(
        "RoPE Scaling",
        flag="--rope-scale",
        gt=0,
        help="Scale factor of the rotary position embedding: the context grows by this factor.",
    )
    rope_frequency_scale: float | None = option(
        "RoPE Frequency Scale",
        flag="--rope-freq-scale",
        gt=0,
        help="Frequency scaling of the rotary position embedding: the context grows by its inverse.",
    )
    yarn_extrapolation_mix_factor: float | None = option(
        "YaRN Extrapolation Mix Factor",
        flag="--yarn-ext-factor",
        help="YaRN: mix of interpolation and extrapolation. -1.0 leaves it to the engine, 0.0 is full "
        "interpolation, 1.0 full extrapolation.",
    )
    yarn_attention_factor: float | None = option(
        "YaRN Attention Factor",
        flag="--yarn-attn-factor",
        help="YaRN: scale of the attention magnitude in an extended context. Commonly 1.0.",
    )
    yarn_beta_fast: float | None = option(
        "YaRN Beta Fast",
        flag="--yarn-beta-fast",
        help="YaRN: low correction dimension, for nearby tokens. Commonly 32.0.",
    )
    yarn_beta_slow: float | None = option(
        "YaRN Beta Slow",
        flag="--yarn-beta-slow",
        help="YaRN: high correction dimension, for distant tokens. Commonly 1.0.",
    )
    threads: int | None = option(
        "Threads",
        flag="--threads",
        ge=1,
        help="CPU threads for generation. Empty: one fewer than the cores the process may use.",
    )
    threads_batch: int | None = option(
        "Threads Batch",
        flag="--threads-batch",
        ge=1,
        help="CPU threads for prompts and batches. Empty: as Threads.",
    )
    tensor_split: str | None = option(
        "Tensor Split",
        flag="--tensor-split",
        help="Proportions of the model for each GPU, separated by commas: 3,2 puts 60% on GPU 0 and 40% on "
        "GPU 1.",
        placeholder="3,2",
    )
    parallel: int | None = option(
        "Parallel", flag="--parallel", ge=1, le=1024, help="Number of requests processed at a time."
    )
    max_concurrent_requests: int | None = like(RequestOptions, "max_concurrent_requests")
    max_waiting_requests: int | None = like(RequestOptions, "max_waiting_requests")
    max_queue_seconds: float | None = like(RequestOptions, "max_queue_seconds")
    cancel_on_disconnect: bool | None = like(RequestOptions, "cancel_on_disconnect")
    priority: int | None = like(MemoryOptions, "priority")
    pinned: bool | None = like(MemoryOptions, "pinned")
    preload: bool | None = like(MemoryOptions, "preload")
    idle_offload_minutes: float | None = like(MemoryOptions, "idle_offload_minutes")
    max_wait_seconds: float | None = like(MemoryOptions, "max_wait_seconds")
    save_prompt_cache: bool | None = like(MemoryOptions, "save_prompt_cache")
    numa: Literal["distributed", "isolate", "numactl"] | None = option(
        "NUMA",
        help="NUMA optimisation: distributed spreads over the nodes, isolate stays on one, numactl uses the "
        "system's policy.",
    )
    split_mode: Literal["none", "layer", "row"] | None = option(
        "Split Mode",
        flag="--split-mode",
        help="How several GPUs share the model: none uses one GPU, layer splits by layers (default), row "
        "splits the weight matrices by rows.",
    )
    main_gpu: int | None = option(
        "Main GPU",
        flag="--main-gpu",
        ge=0,
        help="Index of the GPU that does the main part of the computation.",
    )
    flash_attention: bool | None = option(
        "Flash Attention",
        group="Advanced",
        help="Flash attention, for speed and a smaller compute buffer. Empty: the engine decides.",
    )
    type_k: CacheType | None = option(
        "Type K",
        group="Advanced",
        flag="--cache-type-k",
        help="Data type of the K half of the KV cache. Default f16.",
    )
    type_v: CacheType | None = option(
        "Type V",
        group="Advanced",
        flag="--cache-type-v",
        help="Data type of the V half of the KV cache. Default f16. Quantised types need flash attention.",
    )
    use_mmap: bool | None = option(
        "Use MMAP",
        group="Advanced",
        help="Memory-map the model files. The same switch as No MMAP, the other way round.",
    )
    use_mlock: bool | None = option(
        "Use MLOCK",
        group="Advanced",
        help="Keep the model in RAM: it is never swapped out or compressed.",
    )
    offload_kqv: bool | None = option(
        "Offload KQV",
        group="Advanced",
        flag="--kv-offload",
        no_flag="--no-kv-offload",
        help="Keep the KV cache and its operations on the GPU.",
    )
    defrag_threshold: float | None = option(
        "Defrag Threshold",
        group="Advanced",
        help="Defragment the KV cache when its share of holes exceeds this. Current engines no longer have "
        "this: it is then reported as without effect.",
    )
    validation_workers: int | None = option(
        "Validation Workers",
        group="Advanced",
        ge=1,
        help="Tokenizer workers of TGI. llama.cpp has none: reported as without effect.",
    )
    max_input_tokens: int | None = option(
        "Max Input Tokens",
        group="Advanced",
        ge=1,
        help="Longest prompt in tokens; longer ones are refused with context_length_exceeded.",
    )
    max_total_tokens: int | None = option(
        "Max Total Tokens",
        group="Advanced",
        ge=1,
        help="Prompt and answer together in tokens; requests beyond it are refused.",
    )
    max_batch_total_tokens: int | None = option(
        "Max Batch Total Tokens",
        group="Advanced",
        flag="--batch-size",
        ge=1,
        help="Tokens in a logical batch. Default 2048.",
    )
    max_physical_batch_total_tokens: int | None = option(
        "Max Physical Batch Total Tokens",
        group="Advanced",
        flag="--ubatch-size",
        ge=1,
        help="Tokens in a physical batch. Default 512.",
    )
    max_batch_size: int | None = option(
        "Max Batch Size",
        group="Advanced",
        ge=1,
        le=1024,
        help="Requests in a batch: the same as Parallel.",
    )

    def problems(self) -> list[Problem]:
        """References, names, and fields that contradict each other."""
        found = super().problems() + reference_problems("model", self.model)
        found += name_problems("model_endpoint_name", self.model_endpoint_name)
        found += queue_problems(self.limits)
        return found + self._contradictions() + self._tensor_split_problems()

    @property
    def reference(self) -> str:
        """The model reference as the user gave it."""
        return self.model or ""

    @property
    def endpoint_name(self) -> str | None:
        """The field, else ``--alias`` in CLI."""
        if self.model_endpoint_name or not self.cli:
            return self.model_endpoint_name
        # llama-server takes several, separated by commas; an endpoint has one name.
        alias = last_value(self.cli, ("--alias", "-a")) or ""
        return alias.partition(",")[0].strip() or None

    @property
    def is_verbose(self) -> bool:
        """The field, or what says as much in CLI."""
        if self.cli is None:
            return bool(self.verbose)
        level = last_value(self.cli, ("--verbosity", "-lv", "--log-verbosity")) or ""
        # Of its levels 3 is the default.
        return mentions(self.cli, ("--verbose", "-v", "--log-verbose")) or (
            level.isdigit() and int(level) > 3
        )

    @property
    def limits(self) -> RequestLimits:
        """What the gateway enforces for this model."""
        return RequestLimits(
            max_concurrent_requests=self.max_concurrent_requests,
            max_waiting_requests=self.max_waiting_requests,
            max_queue_s=self.max_queue_seconds,
            cancel_on_disconnect=self.cancel_on_disconnect is not False,
            max_input_tokens=self.max_input_tokens,
            max_total_tokens=self.max_total_tokens,
        )

    @property
    def request_context(self) -> int | None:
        """Tokens that one request may use: Context Size, or Max Total Tokens where that is less.

        The gateway refuses requests that ask for more than Max Total Tokens; the engine's context bounds
        those that do not say how long the answer may be.
        """
        wanted = [tokens for tokens in (self.context_size, self.max_total_tokens) if tokens]
        return min(wanted) if wanted else None

    @property
    def slots(self) -> int | None:
        """Requests processed at a time, under either of its two names."""
        return self.parallel if self.parallel is not None else self.max_batch_size

    @property
    def mmap(self) -> bool | None:
        """Whether to memory-map, under either of its two names."""
        if self.no_mmap is not None:
            return not self.no_mmap
        return self.use_mmap

    def _contradictions(self) -> list[Problem]:
        found = []
        if self.parallel and self.max_batch_size and self.parallel != self.max_batch_size:
            message = (
                f'is the same as "Parallel" (Model/parallel), which is {self.parallel}: set one'
            )
            found.append(Problem(message, path="max_batch_size", value=self.max_batch_size))
        if self.no_mmap is not None and self.use_mmap is not None and self.no_mmap == self.use_mmap:
            message = 'contradicts "No MMAP" (Model/no_mmap): set one of them'
            found.append(Problem(message, path="use_mmap", value=self.use_mmap))
        if (
            self.max_input_tokens
            and self.max_total_tokens
            and self.max_input_tokens >= self.max_total_tokens
        ):
            message = (
                f'leaves no room for an answer: "Max Total Tokens" (Advanced/max_total_tokens) '
                f"is {self.max_total_tokens}"
            )
            found.append(Problem(message, path="max_input_tokens", value=self.max_input_tokens))
        return found

    def _tensor_split_problems(self) -> list[Problem]:
        if self.tensor_split is None:
            return []
        try:
            shares = [float(part) for part in self.tensor_split.split(",")]
        except ValueError:
            shares = []
        if shares and all(0 <= share < float("inf") for share in shares) and sum(shares) > 0:
            return []
        message = "must be numbers separated by commas, such as 3,2"
        return [Problem(message, path="tensor_split", value=self.tensor_split)]


class LlamaCppGeneral(DebugOptions, MemoryBudgetOptions, OffloadOptions):
    """The group "General" of the llama.cpp app."""

    form_order: ClassVar[tuple[str, ...]] = (
        "enable_debug_mode",
        "disable_logs",
        "enable_automatic_cpu_offloading",
        "enable_disk_swapping",
        "hugging_face_token",
        "max_cuda_memory_gib",
        "cuda_memory_manager_minimum_threshold",
        "max_host_memory_gib",
    )

    disable_logs: bool | None = option(
        "Disable Logs",
        help="Leave the engine's own output out of the console. Its errors still appear, and what happens to "
        "the models.",
    )
    engine: EngineChoice | None = option(
        "Engine",
        help="Which llama.cpp to run. auto: a native llama-server if there is one, else the xllamacpp wheel, "
        "else llama-cpp-python's server.",
    )
    llama_server_path: str | None = option(
        "Llama Server Path",
        help="Path of the native llama-server on the worker. Empty: looked up on PATH.",
    )

    @property
    def shows_engine_output(self) -> bool:
        """Whether the engine's own output is on the console."""
        return not self.disable_logs


class LlamaCppSettings(AppSettings[LlamaCppModel, LlamaCppGeneral]):
    """Everything an instance of the llama.cpp app was told."""

    models: tuple[LlamaCppModel, ...]
    general: LlamaCppGeneral = LlamaCppGeneral()
    idle: IdleOptions = IdleOptions()

    def is_embedding(self, model: LlamaCppModel) -> bool:
        """Whether this model serves embeddings instead of text."""
        return bool(model.embedding)

    @classmethod
    def cross_problems(cls, models: Sequence[tuple[str, LlamaCppModel]]) -> list[Problem]:
        """Endpoint names that cannot be served, or that two models have."""
        return endpoint_problems((where, model, preliminary_name(model)) for where, model in models)

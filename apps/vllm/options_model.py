"""The group "Model Configuration" of the vLLM form: the options of one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from common.errors import ModelError, Problem
from common.models.reference import parse_reference
from common.options.cli_field import last_value
from common.options.declaration import like, option
from common.options.memory import MemoryOptions
from common.options.requests import RequestOptions
from common.options.settings import ModelOptions, RequestLimits, queue_problems
from common.runtime.endpoint_names import name_problems, reference_problems

Dtype = Literal["auto", "half", "float16", "bfloat16", "float", "float32"]


class VllmModel(ModelOptions):
    """One model: the form's "Model Configuration" item."""

    trust_remote_code: bool | None = option(
        "Trust Remote Code",
        flag="--trust-remote-code",
        help="Run the Python code that comes with the model's repository. Overrides the switch of the same "
        "name in General for this model.",
    )
    cli: str | None = option(
        "CLI",
        multiline=True,
        help="vLLM CLI arguments. If set, they replace the engine options of the whole form (this section, "
        "LoRA, General and Advanced); Model and the fields that are not the engine's still apply.",
        placeholder="--max-model-len 8192 --enforce-eager",
    )
    enforce_eager: bool | None = option(
        "Enforce Eager",
        flag="--enforce-eager",
        help="Run PyTorch eagerly, without CUDA graphs: slower, but starts sooner and needs less memory.",
    )
    enable_automatic_prefix_caching: bool | None = option(
        "Enable Automatic Prefix Caching",
        flag="--enable-prefix-caching",
        no_flag="--no-enable-prefix-caching",
        help="Reuse the KV cache of prompts that begin alike. Empty: the engine decides.",
    )
    disable_sliding_window: bool | None = option(
        "Disable Sliding Window",
        flag="--disable-sliding-window",
        help="Do without the model's sliding window; the context is then limited to its size.",
    )
    enable_reasoning: bool | None = option(
        "Enable Reasoning",
        flag="--enable-reasoning",
        help="Return the model's reasoning apart from its answer. Needs Reasoning Parser.",
    )
    enable_auto_tool_choice: bool | None = option(
        "Enable Auto Tool Choice",
        flag="--enable-auto-tool-choice",
        help="Let the model decide when to call a tool. Needs Tool Call Parser.",
    )
    model: str | None = option(
        "Model",
        required=True,
        help="A ClearML model ID, a Hugging Face repository (provider/repo) or a local path.",
        placeholder="openai-community/gpt2",
    )
    model_endpoint_name: str | None = option(
        "Model Endpoint Name",
        help="Name for API access. Empty: the model reference, the folder's name for a local path, the "
        "model's name for a ClearML ID.",
    )
    multimedia_limit_per_prompt: str | None = option(
        "Multimedia Limit per Prompt",
        flag="--limit-mm-per-prompt",
        structure="limits",
        help="Most items of each modality in one prompt, such as image=16,video=2. Default 1 of each.",
        placeholder="image=16,video=2",
    )
    max_context_length: int | None = option(
        "Max Context Length",
        flag="--max-model-len",
        ge=1,
        help="Tokens that one request can use, prompt and answer together. Empty: the model's own limit.",
    )
    max_number_of_sequences_per_iteration: int | None = option(
        "Max Number of Sequences per iteration",
        flag="--max-num-seqs",
        ge=1,
        help="Requests that are processed together in one step of the engine.",
    )
    max_sequence_length_to_capture: int | None = option(
        "Max Sequence Length to Capture",
        flag="--max-seq-len-to-capture",
        ge=1,
        help="Sequences longer than this run without CUDA graphs. Older versions only.",
    )
    tool_call_parser: str | None = option(
        "Tool Call Parser",
        flag="--tool-call-parser",
        help="How the model writes tool calls, such as hermes, mistral, llama3_json or pythonic; which there "
        "are depends on the vLLM version. Used with Enable Auto Tool Choice.",
    )
    tool_parser_plugin: str | None = option(
        "Tool Parser plugin",
        flag="--tool-parser-plugin",
        help="Python file or module that registers a parser of your own, to be named in Tool Call Parser.",
    )
    max_num_batched_tokens: int | None = option(
        "Max Num Batched Tokens",
        flag="--max-num-batched-tokens",
        ge=1,
        help="Tokens that are processed together in one step of the engine.",
    )
    reasoning_parser: str | None = option(
        "Reasoning Parser",
        flag="--reasoning-parser",
        help="How the model marks its reasoning, such as deepseek_r1, granite or qwen3; which there are "
        "depends on the vLLM version.",
    )
    model_implementation: str | None = option(
        "Model Implementation",
        flag="--model-impl",
        choices=("auto", "vllm", "transformers"),
        help="Which implementation of the model runs. Empty or auto: vLLM's if there is one, else that of "
        "Transformers.",
    )
    gpu_memory_utilization: float | None = option(
        "GPU Memory Utilization",
        flag="--gpu-memory-utilization",
        gt=0,
        le=1,
        help="Share of each GPU's memory that the engine may use, from 0 to 1. Default 0.9, 0.92 in newer "
        "versions.",
    )
    gpus_tensor_parallel_size: int | None = option(
        "GPUs (Tensor Parallel Size)",
        flag="--tensor-parallel-size",
        ge=1,
        help="GPUs that the model's layers are split over. Empty: all that are visible.",
    )
    swap_space: float | None = option(
        "Swap Space",
        flag="--swap-space",
        ge=0,
        help="Host memory in GiB per GPU for the KV cache of requests that are put aside. Older versions "
        "only.",
    )
    cpu_offload_gib: float | None = option(
        "CPU Offload GiB",
        flag="--cpu-offload-gb",
        ge=0,
        help="GiB of the weights per GPU that stay in host memory: a larger model fits, at the price of a "
        "transfer at each step. Default 0.",
    )
    quantization: str | None = option(
        "Quantization",
        flag="--quantization",
        help="How the weights are quantized, such as awq, gptq, fp8, compressed-tensors or bitsandbytes. "
        "Empty: what the model's configuration says.",
    )
    dtype: Dtype | None = option(
        "Dtype",
        flag="--dtype",
        help="Data type of weights and activations. auto is that of the model.",
    )
    kv_cache_dtype: str | None = option(
        "KV Cache Dtype",
        flag="--kv-cache-dtype",
        choices=("auto", "fp8", "fp8_e5m2", "fp8_e4m3"),
        spellings={"ffp8_e5m2": "fp8_e5m2"},
        help="Data type of the KV cache. auto is that of the model; fp8 holds about twice as many tokens.",
    )
    pipeline_parallel_size: int | None = option(
        "Pipeline Parallel Size",
        flag="--pipeline-parallel-size",
        ge=1,
        help="Stages that the model's layers are divided into, each on GPUs of its own. Default 1.",
    )
    token_block_size: int | None = option(
        "Token Block Size",
        flag="--block-size",
        ge=1,
        help="Tokens in a block of the KV cache.",
    )
    random_seed: int | None = option(
        "Random Seed", flag="--seed", help="Seed of the engine's random numbers."
    )
    max_logprobs: int | None = option(
        "Max Logprobs",
        flag="--max-logprobs",
        ge=-1,
        help="Most log probabilities that a request may ask for per token. Default 20.",
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
    rope_theta: float | None = option(
        "RoPE Theta",
        flag="--rope-theta",
        gt=0,
        help="Base of the rotary position embedding, for use with RoPE Scaling.",
    )
    rope_scaling: str | None = option(
        "RoPE Scaling",
        flag="--rope-scaling",
        structure="object",
        multiline=True,
        help="Scaling of the rotary position embedding, a JSON object.",
        placeholder='{"rope_type":"dynamic","factor":2.0}',
    )
    revision: str | None = option(
        "Revision",
        flag="--revision",
        help="Branch, tag or commit of the model's repository on Hugging Face, such as refs/pr/2.",
    )
    code_revision: str | None = option(
        "Code Revision",
        flag="--code-revision",
        help="Branch, tag or commit of the model's own code on Hugging Face. Empty: the default one.",
    )
    tokenizer: str | None = option(
        "Tokenizer",
        flag="--tokenizer",
        help="A ClearML model ID, a Hugging Face repository or a local path. Empty: the model's own.",
    )
    tokenizer_revision: str | None = option(
        "Tokenizer Revision",
        flag="--tokenizer-revision",
        help="Branch, tag or commit of the tokenizer's repository on Hugging Face.",
    )
    tokenizer_mode: str | None = option(
        "Tokenizer Mode",
        flag="--tokenizer-mode",
        choices=("auto", "slow"),
        help="auto uses the fast tokenizer where there is one, slow never does. Newer versions know more.",
    )
    speculative_model: str | None = option(
        "Speculative model",
        flag="--speculative-model",
        help="Draft model that proposes tokens for the model to check: a ClearML model ID, a Hugging Face "
        "repository or a local path; [ngram] looks them up in the prompt.",
    )
    speculative_disable_mqa_scorer: bool | None = option(
        "Speculative Disable MQA Scorer",
        flag="--speculative-disable-mqa-scorer",
        help="Score the proposed tokens by batch expansion instead of multi-query attention. Older "
        "versions only.",
    )
    speculative_decoding_acceptance_method: (
        Literal["rejection_sampler", "typical_acceptance_sampler"] | None
    ) = option(
        "Speculative Decoding Acceptance Method",
        flag="--spec-decoding-acceptance-method",
        choices=("RejectionSampler", "TypicalAcceptanceSampler"),
        spellings={
            "RejectionSampler": "rejection_sampler",
            "TypicalAcceptanceSampler": "typical_acceptance_sampler",
        },
        help="How proposed tokens are accepted: RejectionSampler keeps the model's distribution, "
        "TypicalAcceptanceSampler accepts more at some cost in quality.",
    )
    num_speculative_tokens: int | None = option(
        "Num Speculative Tokens",
        flag="--num-speculative-tokens",
        ge=1,
        help="Tokens that are proposed at a time.",
    )
    speculative_disable_by_batch_size: int | None = option(
        "Speculative Disable By Batch Size",
        flag="--speculative-disable-by-batch-size",
        ge=2,
        help="New requests are served without speculation while more than this number are waiting.",
    )
    speculative_draft_tensor_parallel_size: int | None = option(
        "Speculative Draft Tensor Parallel Size",
        flag="--speculative-draft-tensor-parallel-size",
        ge=1,
        help="GPUs that the draft model is split over.",
    )
    speculative_max_model_len: int | None = option(
        "Speculative Max Model Len",
        flag="--speculative-max-model-len",
        ge=1,
        help="Context of the draft model in tokens; longer sequences are served without speculation.",
    )
    speculative_model_quantization: str | None = option(
        "Speculative Model Quantization",
        flag="--speculative-model-quantization",
        help="How the draft model's weights are quantized. Empty: what its configuration says.",
    )
    num_lookahead_slots: int | None = option(
        "Num Lookahead Slots",
        flag="--num-lookahead-slots",
        ge=0,
        help="Token slots that the scheduler keeps for proposed tokens. Experimental, older versions only.",
    )
    model_overrides: str | None = option(
        "Model Overrides",
        structure="overrides",
        multiline=True,
        help="Further engine options of this model, which win over the other fields: a JSON object or lines "
        "of name: value with vLLM's names, such as enforce_eager: true.",
        placeholder="pipeline_parallel_size: 2",
    )

    def problems(self) -> list[Problem]:
        """References, names, and fields that need each other."""
        found = super().problems() + reference_problems("model", self.model)
        found += name_problems("model_endpoint_name", self.model_endpoint_name)
        found += queue_problems(self.limits)
        if self.cli:  # it replaces what the rest is about
            return found
        found += reference_problems("tokenizer", self.tokenizer) + revision_problems(self)
        if self.speculative_model not in ("[ngram]", "ngram"):
            found += reference_problems("speculative_model", self.speculative_model)
        parser = self.tool_call_parser or self.overrides.get("tool_call_parser")
        if self.enable_auto_tool_choice and not parser:
            message = 'needs "Tool Call Parser" (Model/tool_call_parser)'
            found.append(Problem(message, path="enable_auto_tool_choice", value=True))
        return found

    @property
    def reference(self) -> str:
        """The model reference as the user gave it."""
        return self.model or ""

    @property
    def endpoint_name(self) -> str | None:
        """The field, else ``--served-model-name`` in CLI."""
        if self.model_endpoint_name or not self.cli:
            return self.model_endpoint_name
        return last_value(self.cli, ("--served-model-name", "--served_model_name")) or None

    @property
    def limits(self) -> RequestLimits:
        """What the gateway enforces for this model."""
        return RequestLimits(
            max_concurrent_requests=self.max_concurrent_requests,
            max_waiting_requests=self.max_waiting_requests,
            max_queue_s=self.max_queue_seconds,
            cancel_on_disconnect=self.cancel_on_disconnect is not False,
        )

    @property
    def model_revision(self) -> str | None:
        """Revision, which Model Overrides and CLI replace."""
        if self.cli:
            return last_value(self.cli, ("--revision",)) or None
        overridden = self.overrides.get("revision")
        return str(overridden) if overridden else self.revision

    @property
    def overrides(self) -> Mapping[str, Any]:
        """Model Overrides by vLLM's names, written with underscores."""
        read: dict[str, Any] = json.loads(self.model_overrides or "{}")
        return {name.lstrip("-").replace("-", "_"): value for name, value in read.items()}


def revision_problems(model: ModelOptions) -> list[Problem]:
    """A revision that the reference (``provider/repo@revision``) says otherwise."""
    try:
        named = parse_reference(model.reference).revision
    except ModelError:
        return []
    wanted = model.model_revision
    if not (named and wanted and named != wanted):
        return []
    message = f'"Model" (Model/model) names another one, {named!r}: give one of them'
    return [Problem(message, path="revision", value=wanted)]

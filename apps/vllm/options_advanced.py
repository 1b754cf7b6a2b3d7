"""The group "Advanced" of the vLLM form: shared by the instance's models."""

from __future__ import annotations

from typing import ClassVar, Literal

from apps.vllm.options_general import VllmGeneral
from common.options.declaration import like, option
from common.options.memory import OffloadOptions


class AdvancedOptions(OffloadOptions):
    """The group "Advanced" of the vLLM app."""

    section: ClassVar[str] = "Advanced"
    form_order: ClassVar[tuple[str, ...]] = (
        "skip_tokenizer_init",
        "disable_custom_all_reduce",
        "enable_chunk_prefill",
        "disable_logprobs_during_spec_decoding",
        "enable_prompt_adapter",
        "enable_prompt_tokens_details",
        "ray_workers_use_nsight",
        "enable_automatic_cpu_offloading",
        "enable_disk_swapping",
    )

    skip_tokenizer_init: bool | None = option(
        "Skip Tokenizer Init",
        flag="--skip-tokenizer-init",
        help="Start without a tokenizer: requests and answers are then token IDs.",
    )
    disable_custom_all_reduce: bool | None = option(
        "Disable Custom All Reduce",
        flag="--disable-custom-all-reduce",
        help="Use NCCL instead of vLLM's own all-reduce between GPUs.",
    )
    enable_chunk_prefill: bool | None = option(
        "Enable Chunk Prefill",
        flag="--enable-chunked-prefill",
        help="Process long prompts in parts, beside the generation of other requests.",
    )
    disable_logprobs_during_spec_decoding: bool | None = option(
        "Disable Logprobs During Spec Decoding",
        flag="--disable-logprobs-during-spec-decoding",
        help="Return no log probabilities while tokens are speculated. Older versions only.",
    )
    enable_prompt_adapter: bool | None = option(
        "Enable Prompt Adapter",
        flag="--enable-prompt-adapter",
        help="Serve prompt adapters. Older versions only.",
    )
    enable_prompt_tokens_details: bool | None = option(
        "Enable Prompt Tokens Details",
        flag="--enable-prompt-tokens-details",
        help="Say in an answer's usage how many prompt tokens came from the cache.",
    )
    ray_workers_use_nsight: bool | None = option(
        "Ray Workers Use Nsight",
        flag="--ray-workers-use-nsight",
        help="Profile Ray's workers with NVIDIA Nsight.",
    )
    model_loader_extra_config: str | None = option(
        "Model Loader Extra Config",
        flag="--model-loader-extra-config",
        structure="object",
        multiline=True,
        help="Settings of the loader that Load Format chose, a JSON object.",
    )
    max_prompt_adapter_token: int | None = option(
        "Max Prompt Adapter Token",
        flag="--max-prompt-adapter-token",
        ge=1,
        help="Most tokens of a prompt adapter. Older versions only.",
    )
    hf_overrides: str | None = like(
        VllmGeneral,
        "config_overrides",
        title="HF Overrides",
        help="Values that replace those of the models' config.json, a JSON object.",
    )
    ignore_patterns: str | None = option(
        "Ignore Patterns",
        flag="--ignore-patterns",
        structure="list",
        help="Files of a model's repository that are not loaded, as patterns separated by commas. Default "
        "original/**/*.",
        placeholder="original/**/*",
    )
    guided_decoding_backend: str | None = like(
        VllmGeneral,
        "guided_decoding_backend",
        help="The same as in General. Which library keeps structured output (JSON, choices, grammars) to "
        "its form. Empty: the engine's choice.",
    )
    ngram_prompt_lookup_max: int | None = option(
        "Ngram Prompt Lookup Max",
        flag="--ngram-prompt-lookup-max",
        ge=1,
        help="Longest run of tokens that is looked up in the prompt, when Speculative model is [ngram].",
    )
    ngram_prompt_lookup_min: int | None = option(
        "Ngram Prompt Lookup Min",
        flag="--ngram-prompt-lookup-min",
        ge=1,
        help="Shortest run of tokens that is looked up in the prompt, when Speculative model is [ngram].",
    )
    num_gpu_blocks_override: int | None = option(
        "Num GPU Blocks Override",
        flag="--num-gpu-blocks-override",
        ge=1,
        help="Blocks of the KV cache, instead of as many as the profiling found room for.",
    )
    num_scheduler_steps: int | None = option(
        "Num Scheduler Steps",
        flag="--num-scheduler-steps",
        ge=1,
        help="Steps of the model for each call of the scheduler. Older versions only.",
    )
    override_pooler_config: str | None = option(
        "Override Pooler Config",
        flag="--override-pooler-config",
        structure="object",
        multiline=True,
        help="How an embedding model's output is pooled, a JSON object.",
        placeholder='{"pooling_type":"MEAN"}',
    )
    preemption_mode: Literal["recompute", "swap"] | None = option(
        "Preemption Mode",
        flag="--preemption-mode",
        help="What becomes of a request that has to give up its KV cache: recompute or swap to host memory. "
        "Older versions only.",
    )
    return_tokens_as_token_ids: bool | None = option(
        "Return Tokens As Token IDs",
        flag="--return-tokens-as-token-ids",
        help="Write tokens as token_id:N where log probabilities are returned.",
    )
    scheduler_delay_factor: float | None = option(
        "Scheduler Delay Factor",
        flag="--scheduler-delay-factor",
        ge=0,
        help="Wait so many times the last prompt's duration before the next prompt is begun. Older versions "
        "only.",
    )
    scheduling_policy: Literal["fcfs", "priority"] | None = option(
        "Scheduling Policy",
        flag="--scheduling-policy",
        help="Order of the requests: fcfs by arrival, priority by the priority that they carry.",
    )
    task: (
        Literal[
            "auto",
            "generate",
            "embedding",
            "embed",
            "classify",
            "score",
            "reward",
            "transcription",
            "draft",
        ]
        | None
    ) = option(
        "Task",
        flag="--task",
        help="What the models are for: generate text, embedding, ... auto where a model can do one thing "
        "only.",
    )
    tokenizer_pool_extra_config: str | None = option(
        "Tokenizer Pool Extra Config",
        flag="--tokenizer-pool-extra-config",
        structure="object",
        multiline=True,
        help="Settings of the tokenizer pool, a JSON object. Older versions only.",
    )
    tokenizer_pool_size: int | None = option(
        "Tokenizer Pool Size",
        flag="--tokenizer-pool-size",
        ge=0,
        help="Tokenizers that work beside the engine; 0: none. Older versions only.",
    )
    tokenizer_pool_type: str | None = option(
        "Tokenizer Pool Type",
        flag="--tokenizer-pool-type",
        choices=("ray",),
        help="What runs the tokenizer pool. Older versions only.",
    )
    typical_acceptance_sampler_posterior_threshold: float | None = option(
        "Typical Acceptance Sampler Posterior Threshold",
        flag="--typical-acceptance-sampler-posterior-threshold",
        ge=0,
        help="Least posterior probability at which TypicalAcceptanceSampler accepts a token. Older versions "
        "only.",
    )

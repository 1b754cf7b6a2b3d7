"""llama-server's flags as attributes of xllamacpp's `CommonParams`.

xllamacpp is llama.cpp's server without its command line: no function takes arguments, but nearly
every flag is an attribute. `SETTERS` maps one to the other; what is not in it, the wheel cannot do.
Attributes and enumerations are looked up by name when a flag is used, since they change between
versions of the wheel. Imports nothing of xllamacpp: the list is read without loading it. Long because
it is one table and what fills it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from apps.llamacpp.flags import BUNDLED_CATALOGUE, EngineFlags, load_catalogue
from common.options.cli_field import CliItem, FlagTable

Setter = Callable[[ModuleType, Any, CliItem], None]

# llama-server's choice when --parallel is absent or negative, and a cache that the slots share.
_AUTO_SLOTS = 4
_REASON = "the xllamacpp wheel cannot do {flag}; a native llama-server can"
_GPU_LAYERS = {"auto": -1, "all": -2}

# Sampling flags whose values from the command line win over those in a model's own metadata.
_OVER_METADATA = {
    "--samplers": "SAMPLERS",
    "--top-k": "TOP_K",
    "--top-p": "TOP_P",
    "--min-p": "MIN_P",
    "--xtc-probability": "XTC_PROBABILITY",
    "--xtc-threshold": "XTC_THRESHOLD",
    "--temp": "TEMP",
    "--repeat-last-n": "PENALTY_LAST_N",
    "--repeat-penalty": "PENALTY_REPEAT",
    "--mirostat": "MIROSTAT",
    "--mirostat-ent": "MIROSTAT_TAU",
    "--mirostat-lr": "MIROSTAT_ETA",
}


def _resolve(params: Any, path: str) -> tuple[Any, str]:
    *owners, name = path.split(".")
    for owner in owners:
        params = getattr(params, owner)
    if not hasattr(params, name):
        raise LookupError(f"this version of xllamacpp has no {path}")
    return params, name


def _set(params: Any, path: str, value: object) -> None:
    owner, name = _resolve(params, path)
    setattr(owner, name, value)


def _value(path: str, convert: Callable[[str], object] = str) -> Setter:
    def apply(xlc: ModuleType, params: Any, item: CliItem) -> None:
        _set(params, path, convert(item.values[0]))

    return apply


def _switch(path: str, on: object = True, off: object = False) -> Setter:
    def apply(xlc: ModuleType, params: Any, item: CliItem) -> None:
        _set(params, path, off if item.is_negated else on)

    return apply


def _enum(
    path: str, enumeration: str, prefix: str, names: Mapping[str, str] | None = None
) -> Setter:
    """The flag's word, upper case behind `prefix`, is the member; `names` has the exceptions."""

    def apply(xlc: ModuleType, params: Any, item: CliItem) -> None:
        word = item.values[0].lower()
        members = getattr(xlc, enumeration).__members__
        member = prefix + (names or {}).get(word, word.upper())
        if member not in members:
            raise ValueError(f"{item.values[0]!r} is not one of its values")
        _set(params, path, members[member])

    return apply


def _words(path: str, choices: Mapping[str, object]) -> Setter:
    def apply(xlc: ModuleType, params: Any, item: CliItem) -> None:
        word = item.values[0].lower()
        if word not in choices:
            raise ValueError(f"{item.values[0]!r} is none of {', '.join(choices)}")
        _set(params, path, choices[word])

    return apply


def _file(path: str) -> Setter:
    return _value(path, lambda name: Path(name).read_text(encoding="utf-8"))


def _json_text(text: str) -> str:
    json.loads(text)
    return text


def _floats(text: str, length: int) -> list[float]:
    values = [float(part) for part in text.replace("/", ",").split(",")]
    if len(values) > length:
        raise ValueError(f"more than {length} values")
    return values + [0.0] * (length - len(values))


def _tensor_split(xlc: ModuleType, params: Any, item: CliItem) -> None:
    params.tensor_split = _floats(item.values[0], len(params.tensor_split))


def _fit_target(xlc: ModuleType, params: Any, item: CliItem) -> None:
    targets = [int(part) * 2**20 for part in item.values[0].split(",")]
    count = len(params.fit_params_target)
    # A single number counts for every device.
    params.fit_params_target = (targets * count if len(targets) == 1 else targets)[:count]


def _names(path: str) -> Setter:
    return _value(path, lambda text: {part.strip() for part in text.split(",") if part.strip()})


def _listen(xlc: ModuleType, params: Any, item: CliItem) -> None:
    params.hostnames = [part.strip() for part in item.values[0].split(",")]


def _gpu_layers(path: str) -> Setter:
    return _value(path, lambda text: _GPU_LAYERS[text] if text in _GPU_LAYERS else int(text))


def _lora(xlc: ModuleType, params: Any, item: CliItem, *, scaled: bool) -> None:
    adapters = list(params.lora_adapters)
    for part in item.values[0].split(","):
        name, _, scale = part.rpartition(":") if scaled else (part, "", "1")
        adapters.append(xlc.CommonAdapterLoraInfo(name, float(scale)))
    params.lora_adapters = adapters


def _reverse_prompt(xlc: ModuleType, params: Any, item: CliItem) -> None:
    params.antiprompt = [*params.antiprompt, item.values[0]]


def _grammar(xlc: ModuleType, params: Any, item: CliItem, *, of: Callable[[Any, str], str]) -> None:
    grammar = params.sampling.grammar
    grammar.type = xlc.common_grammar_type.COMMON_GRAMMAR_TYPE_USER
    grammar.grammar = of(xlc, item.values[0])
    params.sampling.grammar = grammar


def _schema_grammar(xlc: Any, schema: str) -> str:
    return str(xlc.json_schema_to_grammar(json.dumps(json.loads(schema))))


def _template_kwargs(xlc: ModuleType, params: Any, item: CliItem) -> None:
    given = json.loads(item.values[0])
    params.default_template_kwargs = {name: json.dumps(value) for name, value in given.items()}


def _rerank(xlc: ModuleType, params: Any, item: CliItem) -> None:
    params.embedding = True
    params.pooling_type = xlc.llama_pooling_type.LLAMA_POOLING_TYPE_RANK


def _rope_scale(xlc: ModuleType, params: Any, item: CliItem) -> None:
    params.rope_freq_scale = 1.0 / float(item.values[0])


def _timeout(xlc: ModuleType, params: Any, item: CliItem) -> None:
    params.timeout_read = params.timeout_write = int(item.values[0])


def _cors_origins(xlc: ModuleType, params: Any, item: CliItem) -> None:
    params.cors_origins = item.values[0]
    params.cors_origins_explicit = True


def _preserve_reasoning(xlc: ModuleType, params: Any, item: CliItem) -> None:
    kwargs = dict(params.default_template_kwargs)
    kwargs["preserve_reasoning"] = json.dumps(not item.is_negated)
    params.default_template_kwargs = kwargs
    params.preserve_reasoning_specified = True


def _speculative_types(xlc: ModuleType, params: Any, item: CliItem) -> None:
    members = xlc.common_speculative_type.__members__
    chosen = []
    for word in item.values[0].split(","):
        name = "COMMON_SPECULATIVE_TYPE_" + word.strip().upper().replace("-", "_")
        if name not in members:
            raise ValueError(f"{word!r} is not one of its values")
        chosen.append(members[name])
    params.speculative.types = chosen


def _cache_type(path: str) -> Setter:
    return _enum(path, "ggml_type", "GGML_TYPE_")


def _priority(path: str) -> Setter:
    levels = {"-1": "LOW", "0": "NORMAL", "1": "MEDIUM", "2": "HIGH", "3": "REALTIME"}
    return _enum(path, "ggml_sched_priority", "GGML_SCHED_PRIO_", levels)


def _strict(path: str) -> Setter:
    return _value(path, lambda text: bool(int(text)))


_FLASH = {"on": "ENABLED", "off": "DISABLED", "true": "ENABLED", "false": "DISABLED"}
_LOAD_MODES = {"mmap+mlock": "MMAP_MLOCK", "dio": "DIRECT_IO"}
_REASONING = {"deepseek-legacy": "DEEPSEEK_LEGACY"}

SETTERS: Mapping[str, Setter] = {
    # Address and identity.
    "--model": _value("model.path"),
    "--alias": _names("model_alias"),
    "--tags": _names("model_tags"),
    "--host": _listen,
    "--port": _value("port", int),
    # Threads.
    "--threads": _value("cpuparams.n_threads", int),
    "--threads-batch": _value("cpuparams_batch.n_threads", int),
    "--threads-http": _value("n_threads_http", int),
    "--prio": _priority("cpuparams.priority"),
    "--prio-batch": _priority("cpuparams_batch.priority"),
    "--poll": _value("cpuparams.poll", int),
    "--poll-batch": _value("cpuparams_batch.poll", int),
    "--cpu-strict": _strict("cpuparams.strict_cpu"),
    "--cpu-strict-batch": _strict("cpuparams_batch.strict_cpu"),
    "--numa": _enum("numa", "ggml_numa_strategy", "GGML_NUMA_STRATEGY_"),
    # Context, slots, cache.
    "--ctx-size": _value("n_ctx", int),
    "--parallel": _value("n_parallel", int),
    "--kv-unified": _switch("kv_unified"),
    "--kv-unified-per-slot": _value("kv_unified_per_slot", int),
    "--predict": _value("n_predict", int),
    "--batch-size": _value("n_batch", int),
    "--ubatch-size": _value("n_ubatch", int),
    "--keep": _value("n_keep", int),
    "--swa-full": _switch("swa_full"),
    "--cont-batching": _switch("cont_batching"),
    "--context-shift": _switch("ctx_shift"),
    "--cache-type-k": _cache_type("cache_type_k"),
    "--cache-type-v": _cache_type("cache_type_v"),
    "--cache-prompt": _switch("cache_prompt"),
    "--cache-reuse": _value("n_cache_reuse", int),
    "--cache-ram": _value("cache_ram_mib", int),
    "--cache-idle-slots": _switch("cache_idle_slots"),
    "--ctx-checkpoints": _value("n_ctx_checkpoints", int),
    "--checkpoint-min-step": _value("checkpoint_min_step", int),
    "--slot-save-path": _value("slot_save_path"),
    "--slot-prompt-similarity": _value("slot_prompt_similarity", float),
    "--flash-attn": _enum(
        "flash_attn_type", "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_", _FLASH
    ),
    # RoPE and YaRN.
    "--rope-scaling": _enum(
        "rope_scaling_type", "llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_"
    ),
    "--rope-scale": _rope_scale,
    "--rope-freq-base": _value("rope_freq_base", float),
    "--rope-freq-scale": _value("rope_freq_scale", float),
    "--yarn-orig-ctx": _value("yarn_orig_ctx", int),
    "--yarn-ext-factor": _value("yarn_ext_factor", float),
    "--yarn-attn-factor": _value("yarn_attn_factor", float),
    "--yarn-beta-slow": _value("yarn_beta_slow", float),
    "--yarn-beta-fast": _value("yarn_beta_fast", float),
    # Devices and loading.
    "--gpu-layers": _gpu_layers("n_gpu_layers"),
    "--split-mode": _enum("split_mode", "llama_split_mode", "LLAMA_SPLIT_MODE_"),
    "--tensor-split": _tensor_split,
    "--main-gpu": _value("main_gpu", int),
    "--fit": _words("fit_params", {"on": True, "off": False}),
    "--fit-target": _fit_target,
    "--fit-ctx": _value("fit_params_min_ctx", int),
    "--kv-offload": _switch("no_kv_offload", on=False, off=True),
    "--op-offload": _switch("no_op_offload", on=False, off=True),
    "--repack": _switch("no_extra_bufts", on=False, off=True),
    "--no-host": _switch("no_host"),
    "--load-mode": _enum("load_mode", "llama_load_mode", "LLAMA_LOAD_MODE_", _LOAD_MODES),
    "--lazy-mode": _enum("lazy_mode", "llama_lazy_mode", "LLAMA_LAZY_MODE_"),
    "--override-tensor": _value("tensor_buft_overrides"),
    "--check-tensors": _switch("check_tensors"),
    "--warmup": _switch("warmup"),
    "--lora": partial(_lora, scaled=False),
    "--lora-scaled": partial(_lora, scaled=True),
    "--lora-init-without-apply": _switch("lora_init_without_apply"),
    "--offline": _switch("offline"),
    "--sleep-idle-seconds": _value("sleep_idle_seconds", int),
    # Console.
    "--verbose": _switch("verbosity", on=2**31 - 1),
    "--verbosity": _value("verbosity", int),
    "--log-prompts-dir": _value("path_prompts_log_dir"),
    "--perf": _switch("no_perf", on=False, off=True),
    # Sampling.
    "--samplers": _value("sampling.samplers"),
    "--seed": _value("sampling.seed", lambda text: int(text) % 2**32),
    "--ignore-eos": _switch("sampling.ignore_eos"),
    "--temp": _value("sampling.temp", float),
    "--top-k": _value("sampling.top_k", int),
    "--top-p": _value("sampling.top_p", float),
    "--min-p": _value("sampling.min_p", float),
    "--xtc-probability": _value("sampling.xtc_probability", float),
    "--xtc-threshold": _value("sampling.xtc_threshold", float),
    "--typical": _value("sampling.typ_p", float),
    "--repeat-last-n": _value("sampling.penalty_last_n", int),
    "--repeat-penalty": _value("sampling.penalty_repeat", float),
    "--presence-penalty": _value("sampling.penalty_present", float),
    "--frequency-penalty": _value("sampling.penalty_freq", float),
    "--dry-multiplier": _value("sampling.dry_multiplier", float),
    "--dry-base": _value("sampling.dry_base", float),
    "--dry-allowed-length": _value("sampling.dry_allowed_length", int),
    "--dry-penalty-last-n": _value("sampling.dry_penalty_last_n", int),
    "--adaptive-target": _value("sampling.adaptive_target", float),
    "--adaptive-decay": _value("sampling.adaptive_decay", float),
    "--dynatemp-range": _value("sampling.dynatemp_range", float),
    "--dynatemp-exp": _value("sampling.dynatemp_exponent", float),
    "--mirostat": _value("sampling.mirostat", int),
    "--mirostat-lr": _value("sampling.mirostat_eta", float),
    "--mirostat-ent": _value("sampling.mirostat_tau", float),
    "--grammar": partial(_grammar, of=lambda xlc, text: text),
    "--grammar-file": partial(_grammar, of=lambda xlc, name: Path(name).read_text("utf-8")),
    "--json-schema": partial(_grammar, of=_schema_grammar),
    "--json-schema-file": partial(
        _grammar, of=lambda xlc, name: _schema_grammar(xlc, Path(name).read_text("utf-8"))
    ),
    "--backend-sampling": _switch("sampling.backend_sampling"),
    "--reverse-prompt": _reverse_prompt,
    "--special": _switch("special"),
    "--escape": _switch("escape"),
    # Speculation.
    "--spec-type": _speculative_types,
    "--spec-draft-model": _value("speculative.draft.mparams.path"),
    "--spec-draft-ngl": _gpu_layers("speculative.draft.n_gpu_layers"),
    "--spec-draft-n-max": _value("speculative.draft.n_max", int),
    "--spec-draft-n-min": _value("speculative.draft.n_min", int),
    "--spec-draft-p-min": _value("speculative.draft.p_min", float),
    "--spec-draft-p-split": _value("speculative.draft.p_split", float),
    "--spec-draft-backend-sampling": _switch("speculative.draft.backend_sampling"),
    "--spec-draft-type-k": _cache_type("speculative.draft.cache_type_k"),
    "--spec-draft-type-v": _cache_type("speculative.draft.cache_type_v"),
    "--spec-draft-threads": _value("speculative.draft.cpuparams.n_threads", int),
    "--spec-draft-threads-batch": _value("speculative.draft.cpuparams_batch.n_threads", int),
    "--spec-draft-device": _value("speculative.draft.devices"),
    "--spec-ngram-mod-n-min": _value("speculative.ngram_mod.n_min", int),
    "--spec-ngram-mod-n-max": _value("speculative.ngram_mod.n_max", int),
    "--spec-ngram-mod-n-match": _value("speculative.ngram_mod.n_match", int),
    "--spec-ngram-simple-size-n": _value("speculative.ngram_simple.size_n", int),
    "--spec-ngram-simple-size-m": _value("speculative.ngram_simple.size_m", int),
    "--spec-ngram-simple-min-hits": _value("speculative.ngram_simple.min_hits", int),
    "--spec-ngram-map-k-size-n": _value("speculative.ngram_map_k.size_n", int),
    "--spec-ngram-map-k-size-m": _value("speculative.ngram_map_k.size_m", int),
    "--spec-ngram-map-k-min-hits": _value("speculative.ngram_map_k.min_hits", int),
    "--spec-ngram-map-k4v-size-n": _value("speculative.ngram_map_k4v.size_n", int),
    "--spec-ngram-map-k4v-size-m": _value("speculative.ngram_map_k4v.size_m", int),
    "--spec-ngram-map-k4v-min-hits": _value("speculative.ngram_map_k4v.min_hits", int),
    "--lookup-cache-static": _value("speculative.ngram_cache.lookup_cache_static"),
    "--lookup-cache-dynamic": _value("speculative.ngram_cache.lookup_cache_dynamic"),
    # Images.
    "--mmproj": _value("mmproj.path"),
    "--mmproj-auto": _switch("no_mmproj", on=False, off=True),
    "--mmproj-offload": _switch("mmproj_use_gpu"),
    "--mmproj-device": _value("mmproj_device"),
    "--image-min-tokens": _value("image_min_tokens", int),
    "--image-max-tokens": _value("image_max_tokens", int),
    "--mtmd-batch-max-tokens": _value("mtmd_batch_max_tokens", int),
    "--media-path": _value("media_path"),
    "--video-fps": _value("video_fps", float),
    "--video-timestamp-interval": _value("video_timestamp_interval_ms", int),
    "--video-ffmpeg-dir": _value("video_ffmpeg_bin_dir"),
    # What the server answers.
    "--embeddings": _switch("embedding"),
    "--embd-normalize": _value("embd_normalize", int),
    "--pooling": _enum("pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_"),
    "--rerank": _rerank,
    "--metrics": _switch("endpoint_metrics"),
    "--props": _switch("endpoint_props"),
    "--slots": _switch("endpoint_slots"),
    "--ui": _switch("ui"),
    "--timeout": _timeout,
    "--sse-ping-interval": _value("sse_ping_interval", int),
    "--cors-origins": _cors_origins,
    "--cors-methods": _value("cors_methods"),
    "--cors-headers": _value("cors_headers"),
    "--cors-credentials": _switch("cors_credentials"),
    # Chat.
    "--jinja": _switch("use_jinja"),
    "--chat-template": _value("chat_template"),
    "--chat-template-file": _file("chat_template"),
    "--chat-template-kwargs": _template_kwargs,
    "--reasoning-format": _enum(
        "reasoning_format", "common_reasoning_format", "COMMON_REASONING_FORMAT_", _REASONING
    ),
    "--reasoning": _words("enable_reasoning", {"on": 1, "off": 0, "auto": -1}),
    "--reasoning-budget": _value("sampling.reasoning_budget_tokens", int),
    "--reasoning-budget-message": _value("sampling.reasoning_budget_message"),
    "--reasoning-preserve": _preserve_reasoning,
    "--skip-chat-parsing": _switch("force_pure_content_parser"),
    "--prefill-assistant": _switch("prefill_assistant"),
}
"""How each flag that the wheel can do is set, by canonical name."""


def wheel_flags(table: FlagTable | None = None) -> EngineFlags:
    """The flags that the wheel can do, of those in the bundled catalogue (or in `table`)."""
    return EngineFlags(table or load_catalogue(BUNDLED_CATALOGUE).table, SETTERS, reason=_REASON)


def apply_items(xlc: ModuleType, params: Any, items: tuple[CliItem, ...]) -> None:
    """Set every flag on `params`, then what llama-server concludes from them after parsing.

    Args:
        xlc: The module xllamacpp.
        params: A fresh `CommonParams`.
        items: The flags, canonical, all of them in `SETTERS`.

    Raises:
        ValueError: A value is no value of its flag; names the flag as llama-server does.
    """
    params.n_parallel = -1
    for item in items:
        try:
            SETTERS[item.flag.name](xlc, params, item)
        except (ValueError, OSError, LookupError, TypeError, OverflowError) as error:
            raise ValueError(
                f'error while handling argument "{item.flag.name}": {error}'
            ) from error
    if params.n_parallel < 1:
        params.n_parallel = _AUTO_SLOTS
        params.kv_unified = True
    if params.cpuparams_batch.n_threads < 1:
        params.cpuparams_batch.n_threads = params.cpuparams.n_threads
    if params.embedding and params.n_batch > params.n_ubatch:
        # A text is pooled within one physical batch, so a larger logical one would only be refused.
        params.n_batch = params.n_ubatch
    given = {item.flag.name for item in items}
    config = getattr(xlc, "common_params_sampling_config", None)
    if config is not None:
        bits = [_OVER_METADATA[name] for name in given if name in _OVER_METADATA]
        for bit in bits:
            member = config.__members__.get(f"COMMON_PARAMS_SAMPLING_CONFIG_{bit}")
            params.sampling.user_sampling_config |= int(member or 0)

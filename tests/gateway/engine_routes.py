"""The routes of the engines, each judged once: for clients, for the operator, or the gateway's own."""

from __future__ import annotations

import enum


class Use(enum.Enum):
    """Who may have a route."""

    CLIENT = "client"
    OPERATOR = "operator"
    OURS = "ours"


def _of(use: Use, routes: str) -> dict[str, Use]:
    return dict.fromkeys(routes.split(), use)


LLAMA_SERVER = {
    **_of(
        Use.CLIENT,
        "/v1/completions /v1/chat/completions /v1/chat/completions/control"
        " /v1/chat/completions/input_tokens /v1/responses /v1/responses/input_tokens"
        " /v1/audio/transcriptions /v1/messages /v1/messages/count_tokens /v1/embeddings /v1/rerank"
        " /v1/reranking /completion /infill /embedding /rerank /reranking /tokenize /detokenize"
        " /apply-template",
    ),
    **_of(
        Use.OPERATOR,
        "/props /slots /slots/0 /lora-adapters /models /models/load /models/unload /models/sse"
        " /cors-proxy /tools /v1/stream /v1/streams/lookup /index.html /sw.js"
        # The same as routes below /v1, which clients use.
        " /completions /chat/completions /chat/completions/input_tokens /responses"
        " /responses/input_tokens /embeddings /audio/transcriptions",
    ),
    **_of(Use.OURS, "/v1/models"),
}

PYTHON_SERVER = {
    **_of(
        Use.CLIENT,
        "/v1/completions /v1/embeddings /v1/chat/completions /v1/engines/copilot-codex/completions",
    ),
    **_of(Use.OPERATOR, "/extras/tokenize /extras/tokenize/count /extras/detokenize /openapi.json"),
    **_of(Use.OURS, "/v1/models"),
}

VLLM = {
    **_of(
        Use.CLIENT,
        "/v1/completions /v1/completions/render /v1/completions/derender /v1/chat/completions"
        " /v1/chat/completions/batch /v1/chat/completions/render /v1/chat/completions/derender"
        " /v1/responses /v1/responses/render /v1/responses/{response_id}"
        " /v1/responses/{response_id}/cancel /v1/messages /v1/messages/render"
        " /v1/messages/count_tokens /v1/audio/transcriptions /v1/audio/translations /v1/realtime"
        " /v1/embeddings /v1/rerank /v1/score /v1/systemone /v2/rerank /rerank /score /classify"
        " /pooling /tokenize /detokenize",
    ),
    **_of(
        Use.OPERATOR,
        "/invocations /sleep /wake_up /is_sleeping /collective_rpc /server_info /load /version"
        " /ping /readyz /docs /static /tokenizer_info /get_world_size /weight_info"
        " /reset_prefix_cache /reset_mm_cache /reset_encoder_cache /release_kv_cache_memory"
        " /start_profile /stop_profile /pause /resume /is_paused /abort_requests"
        " /scale_elastic_ep /is_scaling_elastic_ep /fault_tolerance/status /fault_tolerance/apply"
        " /init_weight_transfer_engine /shutdown_weight_transfer_engine /start_weight_update"
        " /start_draft_weight_update /finish_weight_update /update_weights /update_weight_version"
        " /weight_checker /kv_event_sources /v1/load_lora_adapter /v1/unload_lora_adapter"
        " /inference/v1/generate /inference/v1/abort_requests /generative_scoring"
        " /cohere/v2/chat /cohere/v2/chat/render /v2/embed /openapi.json",
    ),
    **_of(Use.OURS, "/health /ready /metrics /v1/models"),
}

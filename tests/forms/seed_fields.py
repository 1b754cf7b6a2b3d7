"""Every field of the original forms, written down from their documentation: title | choices | default.

Groups in square brackets; the field of no group stands in "[]". Where the documentation is slipshod the
form has it right: "Typlical" is Typical-P, "ffp8_e5m2" is fp8_e5m2, "Dummy" is dummy, "Layer" is
layer, and the first "Speculative Draft Tensor Parallel Size" of vLLM, by its text, is Max Sequence
Length to Capture. Its headings "YaRN configuration" and "Speculative decoding" hold no values.

A default is a word that the field's default, placeholder or help must have.
"""

from __future__ import annotations

from dataclasses import dataclass

LLAMACPP = """
[]
Instance Name
Service Project - Access Control
Queue
AI Gateway Route
[Model Configuration]
CLI
Verbose
No MMAP
Continuous Batching
Embedding
Model
Model Endpoint Name
Number of GPU Layers
Repeat Penalty
Temperature
Top-K
Top-P
Min-P
XTC Probability
XTC Threshold
Typical-P
Repeat Last N
Context Size
RoPE Frequency Base | | 10000.0
RoPE Scaling
RoPE Frequency Scale
YaRN Extrapolation Mix Factor | | 1.0
YaRN Attention Factor | | 1.0
YaRN Beta Fast | | 32.0
YaRN Beta Slow | | 1.0
Threads
Threads Batch
Tensor Split
Parallel
Max Concurrent Requests
NUMA | distributed, isolate, numactl
Split Mode | none, layer, row | layer
Main GPU
[General]
Enable Debug Mode
Disable Logs
Enable Automatic CPU Offloading
Enable Disk Swapping
Hugging Face Token
Max CUDA Memory (GiB)
CUDA Memory Manager Minimum Threshold | | -1
CUDA Memory Manager Minimum Threshold | | 66000
[Idle Options]
Idle Time Limit (Hours)
Last Action Report Interval (Seconds)
"""

VLLM = """
[]
Instance Name
Service Project - Access Control
Queue
AI Gateway Route
[Model Configuration]
Trust Remote Code
CLI
Enforce Eager
Enable Automatic Prefix Caching
Disable Sliding Window
Enable Reasoning
Enable Auto Tool Choice
Model
Model Endpoint Name
Multimedia Limit per Prompt | | 1
Max Context Length | | model's own
Max Number of Sequences per iteration
Max Sequence Length to Capture
Tool Call Parser
Tool Parser plugin
Max Num Batched Tokens
Reasoning Parser
Model Implementation | vllm, transformers | Empty
GPU Memory Utilization | | 0.9
GPUs (Tensor Parallel Size) | | all
Swap Space
CPU Offload GiB | | 0
Quantization
Dtype | auto, float16, bfloat16, float32
KV Cache Dtype | auto, fp8, fp8_e5m2, fp8_e4m3
Pipeline Parallel Size
Token Block Size
Random Seed
Max Logprobs
Max Concurrent Requests
RoPE Theta
RoPE Scaling
Revision
Code Revision | | default
Tokenizer
Tokenizer Revision
Tokenizer Mode | auto, slow
Speculative model
Speculative Disable MQA Scorer
Speculative Decoding Acceptance Method | RejectionSampler, TypicalAcceptanceSampler
Num Speculative Tokens
Speculative Disable By Batch Size
Speculative Draft Tensor Parallel Size
Speculative Max Model Len
Speculative Model Quantization
Num Lookahead Slots
Model Overrides
[LoRA Configuration]
Enable LoRA
LoRA Modules
Max LoRAs
Long LoRA Scaling Factors
Max LoRA Rank
LoRA Extra Vocabulary Size
LoRA Dtype | auto, float16, bfloat16, float32
Max CPU LoRAs | | Default
Enable LoRA Bias
Fully Sharded LoRAs
[General]
Enable Debug Mode
Use V1 Engine
Trust Remote Code
Disable log requests
Disable Async Output Processing
HuggingFace Token
Max CUDA Memory (GiB)
CUDA Memory Manager Minimum Threshold | | -1
CUDA Memory Manager Minimum Threshold | | 66000
Max Log Length | | all
Device
Guided Decoding Backend | outlines, lm-format-enforcer
Distributed Executor Backend | mp, ray
Config Overrides
Uvicorn Log Level
vLLM Log Level
Load Format | auto, pt, safetensors, npcache, dummy
[Advanced]
Skip Tokenizer Init
Disable Custom All Reduce
Enable Chunk Prefill
Disable Logprobs During Spec Decoding
Enable Prompt Adapter
Enable Prompt Tokens Details
Ray Workers Use Nsight
Enable Automatic CPU Offloading
Enable Disk Swapping
Model Loader Extra Config
Max Prompt Adapter Token
HF Overrides
Ignore Patterns
Guided Decoding Backend | outlines, lm-format-enforcer
Ngram Prompt Lookup Max
Ngram Prompt Lookup Min
Num GPU Blocks Override
Num Scheduler Steps
Override Pooler Config
Preemption Mode | recompute, swap
Return Tokens As Token IDs
Scheduler Delay Factor
Scheduling Policy | fcfs, priority
Task | auto, generate, embedding
Tokenizer Pool Extra Config
Tokenizer Pool Size
Tokenizer Pool Type
Typical Acceptance Sampler Posterior Threshold
[]
vLLM Version | | 0.7.2
[Idle options]
Idle Time Limit (Hours)
Last Action Report Interval (Seconds)
"""

LEGACY = """
[]
Project Name
Task Name
Queue
Model
[Model Configuration]
Trust Remote Code
Revision
Code Revision | | default
Max Model Length | | model's own
Tokenizer
Tokenizer Revision
Tokenizer Mode | auto, slow
[LoRA Configuration]
Enable LoRA
LoRA Modules
Max LoRAs
Max LoRA Rank
LoRA Extra Vocabulary Size
LoRA Dtype | auto, float16, bfloat16, float32
Max CPU LoRAs | | Default
[General]
Disable Log Stats
Enforce Eager
Disable Custom All Reduce
Disable Logging Requests
Fixed API Access Key
HuggingFace Token
Load Format | auto, pt, safetensors, npcache, dummy
Dtype | auto, half, float16, bfloat16, float, float32
KV Cache Type | auto, fp8_e5m2
Pipeline Parallel Size
Tensor Parallel Size
Max Parallel Loading Workers
Token Block Size
Random Seed
Swap Space
GPU Memory Utilization
Max Number of Batched Tokens
Max Number of Sequences
Max Number of Paddings
Quantization
Max Context Length to Capture
Max Log Length | | all
[]
Idle Time Limit (Hours)
"""

APPS = {"llamacpp": LLAMACPP, "vllm": VLLM, "legacy_model": LEGACY}


@dataclass(frozen=True)
class SeedField:
    """One field as the original's documentation has it."""

    group: str
    title: str
    choices: tuple[str, ...]
    default: str


def seed_fields(app: str) -> list[SeedField]:
    fields: list[SeedField] = []
    group = ""
    for line in APPS[app].strip().splitlines():
        if line.startswith("["):
            group = line[1:-1]
            continue
        title, choices, default = (part.strip() for part in f"{line} | | ".split("|")[:3])
        named = tuple(choice.strip() for choice in choices.split(",") if choice.strip())
        fields.append(SeedField(group, title, named, default))
    return fields

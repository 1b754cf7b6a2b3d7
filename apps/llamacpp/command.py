"""Settings to the arguments of a llama-server. Pure: the same input gives the same command.

The native server and the two children of ours take the same arguments; which of them exist is told
by `EngineFlags`, so that one set of rules serves every engine and version. The rules that are not
"the field's flag and its value":

* **Context Size is per request.** llama-server divides ``--ctx-size`` by its slots, so it gets the
  context times the slots. Without a Context Size it gets 0, the model's trained context, which the
  slots then share (``--kv-unified``): any one request may use all of it, and the memory is that of
  one. On a GPU the engine itself lowers a context that was left open to what fits.
* **Slots** are always said, since the engine's own choice changes between versions.
* **Embedding** also pools (``/v1/embeddings`` answers an error without) and raises the physical
  batch to the logical one, since an embedding's text must fit into one physical batch.
* **What makes the model fit** (`ModelPlan.fitted`) is passed in place of what form or CLI say of it.
* **CLI** replaces all of the form's engine options. Ours stay: model, alias, address, metrics, no
  web page, and the number of threads where CLI does not say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from apps.llamacpp.flags import EngineFlags
from apps.llamacpp.options import LlamaCppModel
from apps.llamacpp.prompt_cache import folder_argument
from common.engines.contract import EngineAddress, EngineCommand, Translated, Unavailable
from common.options.cli_field import ParsedCli, parse_cli
from common.options.declaration import Option, describe_options
from common.options.memory import MemoryOptions
from common.runtime.app import ModelPlan

DEFAULT_SLOTS = 4
"""Requests processed at a time when "Parallel" is not set: llama-server's own automatic choice."""

DEFAULT_BATCH = 2048
"""llama-server's logical batch, in tokens."""

SAVE_PATH = "--slot-save-path"
"""The folder where slots are saved."""

OURS = frozenset(
    {
        "cli",
        "model",
        "model_endpoint_name",
        "max_concurrent_requests",
        "max_waiting_requests",
        "max_queue_seconds",
        "cancel_on_disconnect",
        *MemoryOptions.model_fields,
        "max_input_tokens",
    }
)
"""Options of a model that are no engine options: files, names, what the gateway enforces, and memory."""

_NUMA = {"distributed": "distribute", "isolate": "isolate", "numactl": "numactl"}


def model_options() -> dict[str, Option]:
    """Every option of a model, by name, in the order of the form."""
    return {option.name: option for option in describe_options(LlamaCppModel, per_model=True)}


def as_llamacpp(options: object) -> LlamaCppModel:
    """Narrow the options of a plan to this app's.

    Raises:
        TypeError: Another app's options, a mistake of the program.
    """
    if not isinstance(options, LlamaCppModel):
        raise TypeError(f"{type(options).__name__} is not a model of the llama.cpp app")
    return options


@dataclass
class ArgumentList:
    """Arguments as they are collected, and what the user is to be told about them."""

    arguments: list[str] = field(default_factory=list)
    translated: list[Translated] = field(default_factory=list)
    unavailable: list[Unavailable] = field(default_factory=list)
    options: Mapping[str, Option] = field(default_factory=model_options)

    def add(self, *arguments: str) -> None:
        """Pass these."""
        self.arguments += arguments

    def translate(self, name: str, to: str) -> None:
        """Tell that an option is passed in another form."""
        option = self.options[name]
        self.translated.append(Translated(option.title, option.path, to))

    def give_up(self, name: str, reason: str) -> None:
        """Tell that an option has no effect."""
        option = self.options[name]
        self.unavailable.append(Unavailable(option.title, option.path, reason))


def write_server_command(
    plan: ModelPlan,
    program: tuple[str, ...],
    flags: EngineFlags,
    *,
    env: Mapping[str, str],
    pooling: str | None = None,
) -> EngineCommand:
    """Write the command of a llama-server, or of a child that takes its arguments, for one model.

    Args:
        plan: The model.
        program: What runs: the binary, or the interpreter and the child's module.
        flags: Flags that this engine has.
        env: Variables it needs.
        pooling: Pooling for an embedding model whose file names none.

    Returns:
        The command, with everything that was translated or has no effect. Problems of CLI are
        left out of it; `read_cli` finds them beforehand.
    """
    options = as_llamacpp(plan.options)
    arguments = ArgumentList()
    arguments.add("--model", str(plan.files[0]), "--alias", plan.name)
    arguments.add(*_listen(plan.address))
    for name in ("--metrics", "--no-ui", "--no-webui"):
        # Both spellings of the page's switch are one flag in newer versions.
        if name in flags and not (name == "--no-webui" and "--no-ui" in flags):
            arguments.add(name)
    if options.cli is not None:
        _add_cli(arguments, plan, options, flags)
    else:
        _FormWriter(plan, options, flags, arguments, pooling).write()
    if options.save_prompt_cache and plan.cache_folder is not None:
        if obstacle := prompt_cache_obstacle(options, flags):
            arguments.give_up("save_prompt_cache", obstacle)
        else:
            arguments.add(SAVE_PATH, folder_argument(plan.cache_folder))
    return EngineCommand(
        argv=(*program, *_with_fitted(arguments.arguments, plan.fitted, flags)),
        env=env,
        translated=tuple(arguments.translated),
        unavailable=tuple(arguments.unavailable),
    )


def read_cli(options: LlamaCppModel, flags: EngineFlags) -> ParsedCli:
    """Read the field CLI against the flags of the engine that will run."""
    return parse_cli(options.cli or "", flags.table, refuse=flags.refuse)


def prompt_cache_obstacle(options: LlamaCppModel, flags: EngineFlags) -> str | None:
    """Why an engine's processed prompts cannot be saved; None where they can."""
    if SAVE_PATH not in flags:
        return flags.why_not(SAVE_PATH)
    if options.cli is None:
        return "an embedding model keeps no prompts" if options.embedding else None
    parsed = read_cli(options, flags)
    if parsed.last(SAVE_PATH) is not None:
        return f'"CLI" says {SAVE_PATH}, and that folder is yours'
    return None


def report_replaced(arguments: ArgumentList, options: LlamaCppModel) -> None:
    """Tell which fields have no effect because CLI is set."""
    for name in options.given():
        if name not in OURS:
            arguments.give_up(name, '"CLI" is set and replaces it')


def _with_fitted(arguments: list[str], fitted: Mapping[str, str], flags: EngineFlags) -> list[str]:
    """The arguments with what makes the model fit in place of what was said of it."""
    fitting = {name: value for name, value in fitted.items() if name in flags}
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        found = flags.find(word)
        if found is not None and found.name in fitting:
            next(words, None)  # its value: each of these flags has one
        else:
            kept.append(word)
    return [*kept, *(word for item in fitting.items() for word in item)]


def _listen(address: EngineAddress) -> tuple[str, ...]:
    if address.socket_path is not None:
        return ("--host", str(address.socket_path))
    return ("--host", address.host, "--port", str(address.port))


def _add_cli(
    arguments: ArgumentList, plan: ModelPlan, options: LlamaCppModel, flags: EngineFlags
) -> None:
    report_replaced(arguments, options)
    parsed = read_cli(options, flags)
    for item in parsed.items:
        given = " ".join(item.argv)
        if item.flag.name == "--model":
            arguments.give_up("cli", f'{given} is ignored: the "Model" field counts')
        elif item.flag.name == "--alias":
            if options.model_endpoint_name:
                arguments.give_up("cli", f'{given} is ignored: "Model Endpoint Name" counts')
        else:
            arguments.add(*item.argv)
    if parsed.last("--threads") is None and "--threads" in flags:
        arguments.add("--threads", str(plan.threads))


class _FormWriter:
    """Writes the form's fields as arguments; one method for each that has rules of its own."""

    def __init__(
        self,
        plan: ModelPlan,
        options: LlamaCppModel,
        flags: EngineFlags,
        arguments: ArgumentList,
        pooling: str | None,
    ) -> None:
        self._plan = plan
        self._options = options
        self._flags = flags
        self._out = arguments
        self._pooling = pooling
        # An engine without slots serves one request after the other.
        self._slots = (options.slots or DEFAULT_SLOTS) if "--parallel" in flags else 1

    def write(self) -> None:
        given = self._options.given()
        special: dict[str, Callable[[], None]] = {
            "context_size": lambda: self._context("context_size"),
            "max_total_tokens": lambda: self._context("max_total_tokens"),
            "parallel": self._parallel,
            "max_batch_size": self._max_batch_size,
            "no_mmap": lambda: self._load_mode("no_mmap"),
            "use_mmap": lambda: self._load_mode("use_mmap"),
            "use_mlock": lambda: self._load_mode("use_mlock"),
            "numa": self._numa,
            "flash_attention": self._flash_attention,
            "embedding": self._embedding,
            "tensor_split": self._tensor_split,
            "defrag_threshold": self._defrag_threshold,
            "validation_workers": self._validation_workers,
        }
        if "--parallel" in self._flags:
            self._out.add("--parallel", str(self._slots))
        if self._options.threads is None:
            self._out.add("--threads", str(self._plan.threads))
        self._out.add(*self._context_arguments())
        for name, value in given.items():
            if name in OURS:
                continue
            if name in special:
                special[name]()
            else:
                self._plain(self._out.options[name], value)

    def _plain(self, option: Option, value: object) -> None:
        flag = option.flag or ""
        if isinstance(value, bool):
            self._switch(option, flag, value)
        elif flag in self._flags:
            self._out.add(flag, str(value))
        else:
            self._missing(option.name, flag)

    def _switch(self, option: Option, flag: str, is_on: bool) -> None:
        # A switch without a negative name is off unless given; an engine that has only the
        # negative name has it on unless given.
        wanted = flag if is_on else option.no_flag
        if wanted and wanted in self._flags:
            self._out.add(wanted)
        elif flag not in self._flags and (option.no_flag or "") not in self._flags:
            self._missing(option.name, wanted or flag)
        else:
            state = "on" if is_on else "off"
            self._out.translate(option.name, f"nothing: it is {state} unless told otherwise")

    def _missing(self, name: str, flag: str) -> None:
        self._out.give_up(name, self._flags.why_not(flag))

    def _context_arguments(self) -> tuple[str, ...]:
        context = self._options.request_context
        if context:
            return ("--ctx-size", str(context * self._slots))
        shared = self._slots > 1 and "--kv-unified" in self._flags
        return ("--ctx-size", "0", "--kv-unified") if shared else ("--ctx-size", "0")

    def _context(self, name: str) -> None:
        """Tell what became of an option that bounds the context; the arguments are passed already."""
        context = self._options.request_context or 0
        detail = (
            f" ({context} for each of {self._slots} slots)" if context and self._slots > 1 else ""
        )
        self._out.translate(name, " ".join(self._context_arguments()) + detail)

    def _parallel(self) -> None:
        if "--parallel" not in self._flags:
            self._missing("parallel", "--parallel")

    def _max_batch_size(self) -> None:
        if "--parallel" in self._flags:
            self._out.translate("max_batch_size", f"--parallel {self._slots}")
        else:
            self._missing("max_batch_size", "--parallel")

    def _load_mode(self, name: str) -> None:
        """Three fields are one flag in newer versions: the first of them that is set passes it."""
        if "--load-mode" in self._flags:
            mode = _load_mode(self._options.mmap, self._options.use_mlock)
            if "--load-mode" not in self._out.arguments:
                self._out.add("--load-mode", mode)
            self._out.translate(name, f"--load-mode {mode}")
            return
        if name == "use_mlock":
            wanted = "--mlock" if self._options.use_mlock else ""
        else:
            wanted = "--mmap" if self._options.mmap else "--no-mmap"
        if wanted in self._flags:
            if wanted not in self._out.arguments:
                self._out.add(wanted)
            self._out.translate(name, wanted)
        elif wanted == "--no-mmap" or (wanted == "--mlock"):
            self._missing(name, wanted)
        else:
            self._out.translate(name, "nothing: that is the engine's default")

    def _numa(self) -> None:
        value = _NUMA[self._options.numa or "isolate"]
        self._out.add("--numa", value)
        self._out.translate("numa", f"--numa {value}")

    def _flash_attention(self) -> None:
        flag = self._flags.find("--flash-attn")
        is_on = bool(self._options.flash_attention)
        if flag is None:
            self._missing("flash_attention", "--flash-attn")
        elif flag.min_values:
            value = "on" if is_on else "off"
            self._out.add("--flash-attn", value)
            self._out.translate("flash_attention", f"--flash-attn {value}")
        elif is_on:
            self._out.add("--flash-attn")
            self._out.translate("flash_attention", "--flash-attn")
        else:
            self._out.translate("flash_attention", "nothing: it is off unless told otherwise")

    def _embedding(self) -> None:
        if not self._options.embedding:
            self._out.translate("embedding", "nothing: it is off unless told otherwise")
            return
        extra: list[str] = []
        if self._pooling and "--pooling" in self._flags:
            extra += ["--pooling", self._pooling]
        if self._options.max_physical_batch_total_tokens is None:
            batch = self._options.max_batch_total_tokens or DEFAULT_BATCH
            extra += ["--ubatch-size", str(batch)]
        name = "--embeddings" if "--embeddings" in self._flags else "--embedding"
        self._out.add(name, *extra)
        self._out.translate("embedding", " ".join([name, *extra]))

    def _tensor_split(self) -> None:
        shares = ",".join(part.strip() for part in (self._options.tensor_split or "").split(","))
        self._out.add("--tensor-split", shares)

    def _defrag_threshold(self) -> None:
        flag = self._flags.find("--defrag-thold")
        if flag is None or not flag.has_effect:
            reason = "llama.cpp no longer defragments by a threshold; its cache needs none"
            self._out.give_up("defrag_threshold", reason)
        else:
            self._out.add(flag.name, str(self._options.defrag_threshold))
            self._out.translate("defrag_threshold", flag.name)

    def _validation_workers(self) -> None:
        reason = "llama.cpp checks prompts in the server itself and has no such workers"
        self._out.give_up("validation_workers", reason)


def _load_mode(mmap: bool | None, mlock: bool | None) -> str:
    """The value of ``--load-mode``; as before it, memory is mapped unless told otherwise."""
    if mmap is False:
        return "mlock" if mlock else "none"
    return "mmap+mlock" if mlock else "mmap"

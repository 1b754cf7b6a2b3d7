"""What the engine logs."""

from __future__ import annotations

from apps.vllm.translation.plain import lives, write_plain
from apps.vllm.translation.writer import CommandWriter
from common.engines.contract import Translated, Unavailable
from common.options.declaration import describe_options

LEVEL = "VLLM_LOGGING_LEVEL"


def write_log_level(writer: CommandWriter) -> None:
    """Settle "vLLM Log Level", and "Enable Debug Mode", which is a level as well."""
    level = writer.one(LEVEL)
    if level is not None:
        writer.set_env(level, str(level.value))
    general = writer.request.settings.general
    if not getattr(general, "enable_debug_mode", None):
        return
    debug = next(o for o in describe_options(type(general)) if o.name == "enable_debug_mode")
    if level is None:
        writer.env[LEVEL] = "DEBUG"
        writer.translated.append(Translated(debug.title, debug.path, f"{LEVEL}=DEBUG"))
    else:
        reason = f'"{level.option.title}" ({level.option.path}) is set and counts'
        writer.unavailable.append(Unavailable(debug.title, debug.path, reason))


def write_request_log(writer: CommandWriter) -> None:
    """Settle "Disable log requests": newer versions log requests only when they are asked to."""
    for item in writer.open("--disable-log-requests"):
        if lives(writer, "--enable-log-requests"):
            if item.value:
                writer.translate(item, "nothing: requests are not logged unless asked for")
            else:
                writer.translate(item, "", ("--enable-log-requests",))
        elif item.value or not lives(writer, item.flag):
            write_plain(writer, item)
        else:
            found = writer.catalogue.find(item.flag)
            if found is not None and found.negations:
                writer.pass_(item, (found.negations[0],))
            else:
                writer.translate(item, "nothing: requests are logged unless told otherwise")


def quiet_access_log(writer: CommandWriter) -> None:
    """Keep a line for each request out of the console, unless the user said how much is logged."""
    level, access = "--uvicorn-log-level", "--disable-uvicorn-access-log"
    if writer.is_said(level) or writer.is_said(access):
        return
    if writer.obstacle((access,)) is None:
        writer.add((access,))
    else:
        writer.offer((level, "warning"))

"""Models of a ClearML server: looked up and downloaded through the SDK's own storage.

The SDK knows every storage (file server, S3, Azure, Google, NFS) and its credentials, but retries
for hours and cannot be interrupted. So its calls run in daemon threads: a look-up is given a limit,
a download as long as its file grows. The SDK cannot resume; an interrupted download begins anew.

Files go to a cache context of our own (``storage_manager/clearml-deploy`` in the SDK's cache
folder): the SDK keeps no more than a hundred files per context, and other artifacts of the worker
would push models out of the common one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from common.errors import (
    ConfigurationError,
    ControlPlaneError,
    ModelAccessError,
    ModelFormatError,
    ModelNotFoundError,
    ModelUnavailableError,
    Problem,
)
from common.models.disk import check_disk_space
from common.models.download_lock import download_lock, lock_path
from common.models.files import ModelFiles
from common.models.local import find_local
from common.models.progress import (
    FetchCancelledError,
    Progress,
    ProgressMeter,
    check_cancelled,
    render_bytes,
)
from common.models.reference import ModelReference
from common.models.sdk_progress import hush_sdk_progress
from common.models.selection import sibling_parts
from common.models.use import InUse, note_use

CACHE_CONTEXT = "clearml-deploy"
_ARCHIVES = (".zip", ".tgz", ".tar.gz")
# The SDK repeats a refused connection for ever; a server that is there answers within a second.
_LOOKUP_S = 30.0
_CONNECT_S = 5.0
# A download that has not grown for this long has failed, whatever the SDK still tries.
_STALL_S = 60.0
_ATTEMPTS = 3
_POLL_S = 0.2

T = TypeVar("T")


@dataclass(frozen=True)
class RegisteredModel:
    """What the server says of a model."""

    model_id: str
    name: str
    url: str
    framework: str
    is_package: bool
    server: str


def find_model(model_id: str, *, timeout_s: float = _LOOKUP_S) -> RegisteredModel:
    """Look a model up by its ID. Blocks, for `timeout_s` at most.

    Raises:
        ModelNotFoundError: The server has no such model, or not for this user.
        ConfigurationError: No ClearML server is configured.
        ControlPlaneError: The server does not answer.
    """
    server = _server(model_id)
    _probe(server, lambda why: ControlPlaneError(f"The ClearML server {server} {why}."))

    def look_up() -> RegisteredModel:
        from clearml import Model

        found = Model(model_id=model_id)
        tags = found.system_tags or []
        return RegisteredModel(
            model_id=model_id,
            name=str(found.name or model_id),
            url=str(found.url or ""),
            framework=str(found.framework or ""),
            is_package="package" in tags,
            server=server,
        )

    try:
        model = _within(look_up, timeout_s)
    except TimeoutError as error:
        raise ControlPlaneError(
            f"The ClearML server {server} did not answer within {timeout_s:.0f} s when asked for "
            f"the model {model_id}."
        ) from error
    except Exception as error:
        # Of an unknown ID the SDK says nothing itself: it stumbles over the answer that is missing.
        reason = "" if isinstance(error, AttributeError) else f" ({_first_line(error)})"
        raise ModelNotFoundError(
            f"The ClearML server {server} has no model {model_id}, or this user may not see it"
            f"{reason}. Check the ID and the server."
        ) from error
    if not model.url:
        raise ModelNotFoundError(
            f"The ClearML model {model.name!r} ({model_id}) has no file: none was uploaded to it."
        )
    return model


def fetch_from_clearml(
    reference: ModelReference,
    *,
    want: str = "gguf",
    progress: Progress,
    cancel: threading.Event | None = None,
    in_use: InUse | None = None,
) -> ModelFiles:
    """Bring the files of a ClearML model. Blocks.

    A model registered at a local path (``file://``) is used where it is. A package (an archive of
    several files) is unpacked. Of a split GGUF, the parts that lie beside the registered one come
    too.

    Raises:
        ModelNotFoundError: No such model, or its file is gone from the storage.
        ModelAccessError: The storage refuses the SDK's credentials.
        ModelUnavailableError: The storage cannot be reached, or breaks off.
        ModelFormatError: The package has no GGUF file; a model of one file, or a package without
            configuration, where a whole folder is wanted.
        CapacityError: The disk is too small.
    """
    model = find_model(reference.model_id)
    if urlsplit(model.url).scheme in ("", "file"):
        return _named(_find(_local_path(model), want, model), model, None)
    cache = cache_folder()
    state = state_folder(cache)
    lock = lock_path(state, f"{model.server}\n{model.url}")
    with download_lock(lock, model.name, progress, cancel) as tell:
        path = _Download(model, cache, tell, cancel).run()
        files = _named(_find(path, want, model), model, state)
        note_use(files, in_use)
    return files


def cache_folder() -> Path:
    """Return the folder of our context in the SDK's cache (``CLEARML_CACHE_DIR``)."""
    from clearml.config import get_cache_dir

    return Path(str(get_cache_dir())) / "storage_manager" / CACHE_CONTEXT


def state_folder(cache: Path) -> Path:
    """Return where locks and times of use of that folder are kept; beside it, not in it."""
    return cache.parent.parent / "clearml-deploy"


def _find(path: Path, want: str, model: RegisteredModel) -> ModelFiles:
    """Find the wanted files in what was downloaded: a file, or an unpacked folder."""
    if want == "gguf":
        return find_local(path, want=want, text=model.url)
    name = f"the ClearML model {model.name!r} ({model.model_id})"
    if path.is_file():
        raise ModelFormatError(
            f"{name[0].upper()}{name[1:]} is the single file {model.url.rpartition('/')[2]!r}. The "
            "engine loads a folder: with config.json, the weights (safetensors) and the tokenizer. "
            "Register that folder as a package: OutputModel.update_weights_package(weights_path=...)."
        )
    if path.is_dir():
        path = _top(path)
    return find_local(path, want=want, text=f"of {name}" if path.is_dir() else model.url)


def _top(folder: Path) -> Path:
    """The folder itself, or the only one in it, where an archive was packed with its folder."""
    inside = [item for item in folder.iterdir() if not item.name.startswith(("__MACOSX", "."))]
    return _top(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder


def _named(files: ModelFiles, model: RegisteredModel, state: Path | None) -> ModelFiles:
    return ModelFiles(files.first, files.all, files.size_bytes, "ClearML", model.name, state)


def _local_path(model: RegisteredModel) -> Path:
    return Path(unquote(urlsplit(model.url).path) if "://" in model.url else model.url)


class _Download:
    """One download, under its lock."""

    def __init__(
        self,
        model: RegisteredModel,
        cache: Path,
        progress: Progress,
        cancel: threading.Event | None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._progress = progress
        self._cancel = cancel

    def run(self) -> Path:
        from clearml import StorageManager
        from clearml.storage.helper import StorageHelper

        hush_sdk_progress()
        self._manager: Any = StorageManager
        # clearml-agent's configuration of its tasks switches the SDK to a cache without contexts,
        # which removes files, in use or not, when the disk fills up.
        StorageHelper.use_disk_space_file_size_strategy = False
        head, _, name = self._model.url.rpartition("/")
        names = sibling_parts(unquote(name))
        if len(names) == 1:
            return self._one(self._model.url)
        # The SDK puts a hash before each name; the engine finds parts by their names alone.
        folder = self._cache / "split" / self._model.model_id
        folder.mkdir(parents=True, exist_ok=True)
        for part in names:
            link = folder / part
            target = self._one(f"{head}/{part}")
            if not link.exists() or link.resolve() != target.resolve():
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        return folder / names[0]

    def _one(self, url: str) -> Path:
        cached = self._cached(url)
        if cached is not None:
            return cached
        storage = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        _probe(
            url,
            lambda why: ModelUnavailableError(
                f"The storage {storage} of the ClearML model {self._model.name!r} {why}. Is it the "
                "address that this worker can use (files_server in clearml.conf)?"
            ),
        )
        size = self._size(url)
        # An archive lies beside its unpacked files, which are no smaller.
        copies = 2 if url.lower().endswith(_ARCHIVES) else 1
        check_disk_space(copies * (size or 0), self._cache, self._model.name)
        for attempt in range(1, _ATTEMPTS + 1):
            check_cancelled(self._cancel)
            path = self._attempt(url, size)
            if path is not None:
                return path
            if attempt < _ATTEMPTS:
                (self._cancel or threading.Event()).wait(2.0 ** (attempt - 1))
        raise ModelUnavailableError(
            f"The file of the ClearML model {self._model.name!r} could not be downloaded from "
            f"{url} in {_ATTEMPTS} attempts. The SDK's lines above tell more."
        )

    def _cached(self, url: str) -> Path | None:
        """Find a file that is there already, without the network: unpacked folders too."""
        prefix = _cache_prefix(url)
        if not self._cache.is_dir():
            return None
        for path in sorted(self._cache.iterdir()):
            if not path.name.startswith(prefix) or ".partially" in path.name:
                continue
            if url.lower().endswith(_ARCHIVES):
                continue  # unpacked by the SDK, which finds that again itself
            return path
        return None

    def _size(self, url: str) -> int | None:
        """Ask the storage for the size, and by that whether the file is there and may be read."""
        if urlsplit(url).scheme in ("http", "https"):
            return self._http_size(url)
        try:
            found = _within(
                lambda: self._manager.get_file_size_bytes(url, silence_errors=True), _LOOKUP_S
            )
        except TimeoutError:
            return None
        return int(found) if found else None

    def _http_size(self, url: str) -> int | None:
        """Send one HEAD with the SDK's own credentials, since its download swallows the status."""
        try:
            status, size = _within(lambda: _head(url), _LOOKUP_S)
        except Exception:  # noqa: BLE001 - another storage or SDK: its own download will tell
            return None
        name = f"the ClearML model {self._model.name!r} ({self._model.model_id})"
        if status == 404:
            raise ModelNotFoundError(f"The file of {name} is gone: {url} answers 404.")
        if status in (401, 403):
            raise ModelAccessError(
                f"The file of {name} may not be read: {url} answers {status}. Check the "
                "credentials that this worker's clearml.conf has for that storage."
            )
        return size if status == 200 else None

    def _attempt(self, url: str, size: int | None) -> Path | None:
        result: list[Any] = []
        started = time.time()

        def download() -> None:
            try:
                result.append(
                    self._manager.get_local_copy(
                        url, cache_context=CACHE_CONTEXT, extract_archive=True
                    )
                )
            except Exception as error:  # noqa: BLE001 - handed to the waiting thread
                result.append(error)

        thread = threading.Thread(target=download, name="clearml-download", daemon=True)
        thread.start()
        try:
            self._watch(thread, url, size, started)
        except FetchCancelledError:
            # The SDK cannot go on with it another time. Its thread may still write to the open file,
            # which is gone with it.
            self._remove_partial(url)
            raise
        if not result:
            raise ModelUnavailableError(
                f"The download of {self._model.name!r} from {url} stood still for {_STALL_S:.0f} s "
                f"at {render_bytes(self._received(url, started))}."
            )
        path = None if isinstance(result[0], Exception) else result[0]
        if path and size and Path(path).is_file() and Path(path).stat().st_size != size:
            os.unlink(path)
            return None
        return Path(path) if path else None

    def _remove_partial(self, url: str) -> None:
        for path in self._cache.glob(f"{_cache_prefix(url)}*.partially*"):
            with contextlib.suppress(OSError):
                path.unlink()

    def _watch(self, thread: threading.Thread, url: str, size: int | None, since: float) -> None:
        meter = ProgressMeter(self._progress, "downloading", self._model.name, size)
        received, moved_at = 0, time.monotonic()
        while thread.is_alive():
            check_cancelled(self._cancel)
            now = self._received(url, since)
            if now != received:
                received, moved_at = now, time.monotonic()
            meter.update(received)
            # Unpacking writes no partial file and may take long: only the transfer is timed.
            if time.monotonic() - moved_at > _STALL_S and (not size or received < size):
                return
            thread.join(_POLL_S)
        meter.finish(size or received)

    def _received(self, url: str, since: float) -> int:
        prefix = _cache_prefix(url)
        sizes = [0]
        for path in self._cache.glob(f"{prefix}*"):
            try:
                found = path.stat()
            except OSError:
                continue
            if path.is_file() and found.st_mtime >= since - 1:
                sizes.append(found.st_size)
        return max(sizes)


def _head(url: str) -> tuple[int, int | None]:
    import requests
    from clearml.storage.helper import StorageHelper

    # The SDK has no public call for this; its driver knows to which hosts the token may go.
    container = StorageHelper.get(url)._container
    answer = requests.head(
        url,
        headers=container.get_headers(url) or {},
        timeout=(_CONNECT_S, _LOOKUP_S / 2),
        allow_redirects=True,
        verify=container.session.verify,
    )
    length = answer.headers.get("Content-Length", "")
    return answer.status_code, int(length) if length.isdigit() else None


def _cache_prefix(url: str) -> str:
    """What the SDK's names of a URL's files in its cache begin with (its `CacheManager`)."""
    from clearml.utilities.hashing import md5_safe_hash

    return f"{md5_safe_hash(data=url.encode()).hexdigest()}."


def _server(model_id: str) -> str:
    """Return the API server's address; refuses where no credentials are configured."""
    from clearml.backend_api import Session
    from clearml.backend_api.session.defs import ENV_ACCESS_KEY, ENV_AUTH_TOKEN
    from clearml.config import config_obj

    key = config_obj.get("api.credentials.access_key", None)
    if not (ENV_ACCESS_KEY.get() or ENV_AUTH_TOKEN.get() or key):
        raise _not_configured(model_id)
    return str(Session.get_api_server_host())


def _not_configured(model_id: str) -> ConfigurationError:
    return ConfigurationError(
        [
            Problem(
                f"the ClearML model ID {model_id} needs a ClearML server, and none is configured here. Run "
                "`clearml-init`, or set CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and "
                "CLEARML_API_SECRET_KEY"
            )
        ]
    )


def _probe(url: str, error: Callable[[str], Exception]) -> None:
    """Connect once, so that a server that is away is said so in seconds. Skipped behind a proxy."""
    import requests

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or requests.utils.get_environ_proxies(url):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S).close()
    except OSError as cause:
        raise error(f"cannot be reached ({cause})") from cause


def _within(call: Callable[[], T], seconds: float) -> T:
    """Run a call of the SDK that may block for ever; raise `TimeoutError` after `seconds`."""
    outcome: list[tuple[T | None, Exception | None]] = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=work, name="clearml-lookup", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]

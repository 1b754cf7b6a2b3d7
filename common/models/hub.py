"""Models from the Hugging Face Hub, or from a mirror that speaks its protocol.

Listing, access and the cache's layout are huggingface_hub's own. The bytes of a file are fetched
here, with the library's HTTP session, because the library deletes what an interrupted process had
received, and a model of 40 GB must not start again from nothing: a partial file stays as
``blobs/<etag>.incomplete`` and is continued with an HTTP range. The finished blob is put where the
library expects it, and the library then links it into the snapshot. Files above the Hub's limit for
plain HTTP, and all files when ``HF_XET_HIGH_PERFORMANCE`` is set, are left to the library whole.

Everything here blocks; callers run it in a thread.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from common.errors import (
    DeployError,
    ModelFormatError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from common.models.disk import check_disk_space, disk_full_error, is_disk_full
from common.models.download_lock import download_lock, lock_path
from common.models.files import ModelFiles
from common.models.hub_download import BlobRequest, download_blob
from common.models.hub_errors import explain, is_transient
from common.models.progress import Progress, ProgressMeter, check_cancelled
from common.models.reference import ModelReference
from common.models.selection import (
    ListedFile,
    has_weights,
    select_gguf,
    select_repository,
    select_tokenizer,
)
from common.models.use import InUse, note_use, use_file

_TRUE = {"1", "ON", "YES", "TRUE"}
_DEFAULT_ENDPOINT = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The Hub's content network does not serve larger files over plain HTTP.
_HTTP_LIMIT_BYTES = 50 * 10**9
_LIST_TIMEOUT_S = 15.0
_LIST_ATTEMPTS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class HubSettings:
    """Where the Hub and its cache are, from the variables that all Hugging Face programs honour.

    Attributes:
        endpoint: ``HF_ENDPOINT``.
        cache_dir: ``HF_HUB_CACHE``, or ``hub`` under ``HF_HOME``.
        is_offline: ``HF_HUB_OFFLINE``: nothing is asked, only the cache is used.
        prefers_xet: ``HF_XET_HIGH_PERFORMANCE``.
        token: The user's token; None = the one of the environment or of the log-in, if any.
    """

    endpoint: str
    cache_dir: Path
    is_offline: bool = False
    prefers_xet: bool = False
    token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(
        cls, token: str | None = None, environ: Mapping[str, str] | None = None
    ) -> HubSettings:
        """Read the environment as huggingface_hub does at its import."""
        env = os.environ if environ is None else environ
        cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
        if not cache:
            base = env.get("XDG_CACHE_HOME") or "~/.cache"
            cache = os.path.join(env.get("HF_HOME") or os.path.join(base, "huggingface"), "hub")
        offline = env.get("HF_HUB_OFFLINE") or env.get("TRANSFORMERS_OFFLINE") or ""
        return cls(
            endpoint=(env.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/"),
            cache_dir=Path(os.path.expandvars(cache)).expanduser().absolute(),
            is_offline=offline.upper() in _TRUE,
            prefers_xet=env.get("HF_XET_HIGH_PERFORMANCE", "").upper() in _TRUE,
            token=token or None,
        )

    @property
    def state_folder(self) -> Path:
        """Where locks and the times of use are kept: a place that the cache's scanners pass by."""
        return self.cache_dir / ".locks" / "clearml-deploy"


@dataclass(frozen=True)
class _Listing:
    revision: str
    commit: str
    files: tuple[ListedFile, ...]


def library() -> Any:
    """Import huggingface_hub (25 MB, hence late) without telemetry, progress bars and warnings.

    Its constants are set rather than the environment, which child processes would inherit.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.HF_HUB_DISABLE_SYMLINKS_WARNING = True
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        disable_progress_bars()
    return huggingface_hub


def fetch_from_hub(
    reference: ModelReference,
    settings: HubSettings,
    *,
    want: str = "gguf",
    progress: Progress,
    cancel: threading.Event | None = None,
    in_use: InUse | None = None,
) -> ModelFiles:
    """Bring the files that a reference means into the cache, from where others share them.

    Args:
        reference: Of kind ``HUB``.
        settings: Endpoint, cache, token.
        want: ``gguf`` for one GGUF model, ``repository`` for all that an engine for safetensors
            needs, ``tokenizer`` for that without the weights.
        progress: Told bytes and rate.
        cancel: Ends the download; what was received is resumed next time.
        in_use: Takes hold of the files before anybody could prune them.

    Raises:
        ModelNotFoundError: No such repository, revision or file.
        ModelAccessError: Gated or private, with or without token.
        ModelFormatError: No GGUF file there or a part is missing; no configuration; no tokenizer.
        CapacityError: The disk is too small.
        ModelUnavailableError: The Hub does not answer, or broke off again and again.
        FetchCancelledError: `cancel` was set.
    """
    return _HubFetch(reference, settings, want, progress, cancel, in_use).run()


def peek_at_hub(
    reference: ModelReference,
    settings: HubSettings,
    names: Sequence[str],
    *,
    progress: Progress,
    cancel: threading.Event | None = None,
) -> dict[str, Path]:
    """Bring a few small files of a repository, before all the others; those that it has, by name.

    Raises: as `fetch_from_hub` for a ``repository``, what the repository lacks included.
    """
    fetch = _HubFetch(reference, settings, "repository", progress, cancel, None, frozenset(names))
    folder = fetch.run().first
    return {name: folder / name for name in names if (folder / name).is_file()}


class _HubFetch:
    """One fetch; a class only to carry its arguments."""

    def __init__(
        self,
        reference: ModelReference,
        settings: HubSettings,
        want: str,
        progress: Progress,
        cancel: threading.Event | None,
        in_use: InUse | None,
        only: frozenset[str] | None = None,
    ) -> None:
        self._hub = library()
        self._only = only
        self._reference = reference
        self._settings = settings
        self._want = want
        self._progress = progress
        self._cancel = cancel
        self._in_use = in_use
        self._token: str | None = settings.token or self._hub.get_token()
        self._repo_folder = settings.cache_dir / f"models--{reference.repo.replace('/', '--')}"

    def run(self) -> ModelFiles:
        listing = self._list()
        chosen = self._choose(listing)
        if self._missing(listing, chosen):
            self._bring(listing, chosen)
        else:
            note_use(self._result(listing, chosen), self._in_use)
        self._remember_revision(listing)
        return self._result(listing, chosen)

    # -- what there is ---------------------------------------------------------------------------

    def _list(self) -> _Listing:
        if self._settings.is_offline:
            cached = self._list_cached()
            if cached is None:
                raise ModelNotFoundError(
                    f"{self._reference.text} is not in the cache {self._settings.cache_dir}, and "
                    "offline mode is on (HF_HUB_OFFLINE). Fill the cache, or unset the variable."
                )
            return cached
        try:
            return self._patiently(self._list_online)
        except ModelUnavailableError:
            # The Hub is away: what was fetched before still serves.
            cached = self._list_cached()
            if cached is None or not self._is_whole(cached):
                raise
            return cached

    def _is_whole(self, cached: _Listing) -> bool:
        """Whether the cache has all that is wanted; what it never had, its listing cannot tell."""
        try:
            chosen = self._choose(cached)
        except ModelFormatError:
            return False
        whole = self._want != "repository" or self._only is not None or has_weights(chosen)
        return whole and not self._missing(cached, chosen)

    def _list_online(self) -> _Listing:
        api = self._hub.HfApi(endpoint=self._settings.endpoint, token=self._token or False)
        info = api.model_info(
            self._reference.repo,
            revision=self._reference.revision,
            files_metadata=True,
            timeout=_LIST_TIMEOUT_S,
        )
        files = tuple(ListedFile(item.rfilename, item.size) for item in info.siblings or ())
        return _Listing(self._reference.revision or "main", info.sha, files)

    def _list_cached(self) -> _Listing | None:
        revision = self._reference.revision or "main"
        commit = revision
        if not _COMMIT.fullmatch(revision):
            try:
                commit = (self._repo_folder / "refs" / revision).read_text().strip()
            except OSError:
                return None
        folder = self._repo_folder / "snapshots" / commit
        files = tuple(
            ListedFile(path.relative_to(folder).as_posix(), path.stat().st_size)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        )
        return _Listing(revision, commit, files) if files else None

    def _choose(self, listing: _Listing) -> tuple[ListedFile, ...]:
        where = self._reference.repo
        if self._reference.revision:
            where += f" at {self._reference.revision}"
        path = self._reference.path
        if self._want == "tokenizer":
            return select_tokenizer(listing.files, path, where)
        if self._want == "repository":
            chosen = select_repository(listing.files, path, where)
            if self._only is None:
                return chosen
            start = f"{path.rstrip('/')}/" if path else ""
            return tuple(file for file in chosen if file.path.removeprefix(start) in self._only)
        return select_gguf(listing.files, path, where)

    # -- what is missing -------------------------------------------------------------------------

    def _local_path(self, listing: _Listing, file: ListedFile) -> Path:
        return self._repo_folder / "snapshots" / listing.commit / file.path

    def _missing(self, listing: _Listing, chosen: Sequence[ListedFile]) -> list[ListedFile]:
        return [file for file in chosen if not self._local_path(listing, file).exists()]

    def _bring(self, listing: _Listing, chosen: tuple[ListedFile, ...]) -> None:
        key = "\n".join((listing.commit, *(file.path for file in chosen)))
        lock = lock_path(self._settings.state_folder, f"{self._reference.repo}\n{key}")
        name = self._reference.text
        with download_lock(lock, name, self._progress, self._cancel) as tell:
            missing = self._missing(listing, chosen)
            if not missing:
                note_use(self._result(listing, chosen), self._in_use)
                return
            requests = [self._patiently(partial(self._request, listing, file)) for file in missing]
            present = sum(file.size_bytes or 0 for file in chosen if file not in missing)
            total = present + sum(request.size_bytes for request in requests)
            to_write = sum(request.size_bytes - request.received_bytes() for request in requests)
            check_disk_space(to_write, self._settings.cache_dir, name)
            meter = ProgressMeter(tell, "downloading", name, total)
            meter.update(present + sum(request.received_bytes() for request in requests))
            state = self._settings.state_folder
            # Neither a partial file nor the first parts of a split model may be pruned meanwhile.
            with InUse() as meanwhile:
                for file, request in zip(missing, requests, strict=True):
                    meanwhile.hold(state, request.partial)
                    self._download(listing, file, request, meter, present)
                    meanwhile.hold(state, self._local_path(listing, file))
                    use_file(state, request.partial).unlink(missing_ok=True)
                    present += request.size_bytes
                meter.finish(present)
                note_use(self._result(listing, chosen), self._in_use)

    def _request(self, listing: _Listing, file: ListedFile) -> BlobRequest:
        """Ask the Hub for a file's identity and size; this is where access is refused."""
        url = self._hub.hf_hub_url(
            self._reference.repo,
            file.path,
            revision=listing.commit,
            endpoint=self._settings.endpoint,
        )
        token = self._token or False
        found = self._hub.get_hf_file_metadata(url, token=token, endpoint=self._settings.endpoint)
        if not found.etag or found.size is None or not re.fullmatch(r"[\w.+=-]{1,200}", found.etag):
            raise ModelUnavailableError(
                f"{self._settings.endpoint} does not tell the size and ETag of {file.path}, "
                "as the Hub's protocol asks. Is HF_ENDPOINT a mirror of the Hub?"
            )
        return BlobRequest(
            url=url,
            etag=found.etag,
            size_bytes=found.size,
            folder=self._repo_folder / "blobs",
            headers=self._hub.utils.build_hf_headers(token=token),
        )

    def _download(
        self,
        listing: _Listing,
        file: ListedFile,
        request: BlobRequest,
        meter: ProgressMeter,
        before: int,
    ) -> None:
        def report(done: int) -> None:
            check_cancelled(self._cancel)
            meter.update(before + done)

        try:
            if not (self._settings.prefers_xet or request.size_bytes > _HTTP_LIMIT_BYTES):
                download_blob(request, report, self._cancel)
            # With the blob in place this makes the links only.
            self._patiently(lambda: self._link(listing, file), may_cancel=False)
        except DeployError:
            raise
        except Exception as error:
            raise self._explained(error) from error
        report(request.size_bytes)

    def _link(self, listing: _Listing, file: ListedFile) -> None:
        self._hub.hf_hub_download(
            self._reference.repo,
            file.path,
            revision=listing.commit,
            cache_dir=self._settings.cache_dir,
            endpoint=self._settings.endpoint,
            token=self._token or False,
        )

    def _remember_revision(self, listing: _Listing) -> None:
        """Write which commit a branch or tag was, so that offline mode finds it by that name."""
        reference = self._repo_folder / "refs" / listing.revision
        if listing.revision == listing.commit:
            return
        try:
            if reference.exists() and reference.read_text() == listing.commit:
                return
            reference.parent.mkdir(parents=True, exist_ok=True)
            fresh = reference.with_name(f"{reference.name}.{os.getpid()}.tmp")
            fresh.write_text(listing.commit)
            os.replace(fresh, reference)
        except OSError:
            return  # a cache that is mounted read-only serves all the same

    def _result(self, listing: _Listing, chosen: tuple[ListedFile, ...]) -> ModelFiles:
        paths = tuple(self._local_path(listing, file) for file in chosen)
        folder = self._repo_folder / "snapshots" / listing.commit / self._reference.path
        first = paths[0] if self._want == "gguf" else folder
        return ModelFiles(
            first=first,
            all=paths,
            size_bytes=sum(path.stat().st_size for path in paths),
            origin="Hugging Face",
            state_folder=self._settings.state_folder,
        )

    # -- errors ----------------------------------------------------------------------------------

    def _explained(self, error: Exception) -> DeployError:
        if isinstance(error, OSError) and is_disk_full(error):
            return disk_full_error(self._settings.cache_dir, self._reference.text)
        return explain(
            error,
            reference=self._reference,
            endpoint=self._settings.endpoint,
            has_token=self._token is not None,
        )

    def _patiently(self, call: Callable[[], T], *, may_cancel: bool = True) -> T:
        """Run a small request to the Hub, again after a moment when the connection failed."""
        attempt = 1
        while True:
            if may_cancel:
                check_cancelled(self._cancel)
            try:
                return call()
            except DeployError:
                raise
            except Exception as error:
                if attempt >= _LIST_ATTEMPTS or not is_transient(error):
                    raise self._explained(error) from error
            time.sleep(0.5 * attempt)
            attempt += 1

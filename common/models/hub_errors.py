"""What an error of huggingface_hub means to the user: the exact cause and what to do."""

from __future__ import annotations

from common.errors import (
    DeployError,
    InternalError,
    ModelAccessError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from common.models.reference import ModelReference

_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
_GIVE_TOKEN = (
    'give a token that may read it: "Hugging Face Token" (General/hugging_face_token), or better '
    "HF_TOKEN in the environment of the worker"
)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error of the library carries, if any."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may work in a moment: connection, time-out, overload."""
    from huggingface_hub import errors

    if isinstance(error, DeployError):
        return False
    status = status_of(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    # The base of the HTTP client's errors, under whichever name the library's version has it.
    client_error = errors.HfHubHTTPError.__mro__[1]
    return isinstance(error, client_error)


def explain(
    error: BaseException, *, reference: ModelReference, endpoint: str, has_token: bool
) -> DeployError:
    """Turn an error of the library or its HTTP client into ours. Pure."""
    from huggingface_hub import errors

    repo, at = reference.repo, f" at {endpoint}"
    page = f"{endpoint}/{repo}"
    status = status_of(error)
    server_words = getattr(getattr(error, "response", None), "headers", {}).get("X-Error-Message")
    if status == 401 and has_token and not isinstance(error, errors.RepositoryNotFoundError):
        return ModelAccessError(
            f"The Hugging Face token is not valid{at} (401), so {repo} cannot be read. Replace it: "
            '"Hugging Face Token" (General/hugging_face_token) or HF_TOKEN.'
        )
    if isinstance(error, errors.GatedRepoError):
        return _gated(repo, page, has_token)
    if isinstance(error, errors.RepositoryNotFoundError):
        return _no_repository(repo, at, has_token)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(
            f"The repository {repo} has no revision {reference.revision!r}{at}. See its branches "
            f"and tags at {page}/tree/main."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return ModelNotFoundError(f"The repository {repo} has no file for {reference.text}{at}.")
    if isinstance(error, errors.DisabledRepoError):
        return ModelAccessError(f"The repository {repo} was disabled by its owner or the Hub.")
    if status in (401, 403):
        why = f" ({server_words})" if server_words else ""
        what = "Check that the token may read it." if has_token else f"Perhaps {_GIVE_TOKEN}."
        return ModelAccessError(f"{repo} may not be read{at} ({status}){why}. {what}")
    if status == 429:
        return ModelUnavailableError(
            f"{endpoint} refuses {repo} for now: too many requests (429). Try again later; with a "
            "token the limit is higher."
        )
    if status is not None:
        return ModelUnavailableError(f"{endpoint} answered {status} for {repo}. Try again later.")
    if is_transient(error) or isinstance(error, OSError):
        return ModelUnavailableError(
            f"{endpoint} cannot be reached for {repo} ({type(error).__name__}: {error}). Check the "
            "network, HF_ENDPOINT, the proxy (HTTPS_PROXY, NO_PROXY) and, for certificates of "
            "one's own, SSL_CERT_FILE."
        )
    return InternalError(f"Fetching {reference.text} failed: {type(error).__name__}: {error}")


def _gated(repo: str, page: str, has_token: bool) -> ModelAccessError:
    if has_token:
        return ModelAccessError(
            f"{repo} is gated, and the token has no access to it (403). Ask for access at {page} "
            "with the account of the token, or use the token of an account that has it."
        )
    return ModelAccessError(
        f"{repo} is gated, and there is no token. Accept its terms at {page}, then {_GIVE_TOKEN}."
    )


def _no_repository(repo: str, at: str, has_token: bool) -> DeployError:
    if has_token:
        return ModelNotFoundError(
            f"There is no repository {repo}{at}, or it is private and the token has no access. "
            "Check the name."
        )
    return ModelNotFoundError(
        f"There is no repository {repo}{at}, or it is private. Check the name; if it is private, "
        f"{_GIVE_TOKEN}."
    )

"""``clearml``: the bearer is a ClearML token, and the ClearML server decides who may use the instance.

The instance asks that server, with the client's token and nothing else, whether the instance's own
task may be read. Whatever the token says of itself is a hint until the server has said yes: when to
ask again, and the name for the telemetry.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import enum
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

from common.errors import CapacityError, RequestError, ServerAwayError
from common.gateway.auth import Identity
from common.gateway.keys import Role

YES_S = 60.0
"""How long a yes holds, in seconds: so long a token works that was withdrawn, or whose server is away."""

NO_S = 5.0
"""How long a no holds; also a yes for a token that ended by this machine's clock alone."""

AWAY_S = 1.0
"""After a question without an answer, so long no other one is asked."""

RETRY_AFTER_S = 5.0

MAX_QUESTIONS = 8
MAX_WAITING = 64
MAX_ANSWERS = 1024
"""Kept yeses, and kept noes: wrong tokens cannot push out right ones."""

MAX_TOKEN_LENGTH = 8192
MAX_NAME_LENGTH = 64

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*")


class Verdict(enum.Enum):
    """What the ClearML server says about a token."""

    MAY_READ = "may read the task"
    MAY_NOT_READ = "may not read the task"
    UNKNOWN = "is not a valid token"


Ask = Callable[[str], Verdict]
"""Asks the server about a token. Runs on a thread, may take seconds.

Raises:
    ServerAwayError: It does not answer.
"""


@dataclass(frozen=True)
class Claims:
    """What a token says of itself; not to be believed.

    Attributes:
        name: The user's name, else their ID, else "clearml".
        expires: Unix time in seconds; None: it does not say.
    """

    name: str
    expires: float | None


@dataclass(frozen=True)
class _Answer:
    verdict: Verdict
    identity: Identity
    until: float


class ClearMLAuthenticator:
    """Lets in whom the ClearML server lets read the instance's task; they may use its models.

    Answers are kept by the token's hash. A token is asked about once at a time, however many
    requests show it.

    Args:
        ask: Asks the server.
        log: Gets a line when the server stops answering, and when it answers again.
        clock: Monotonic seconds.
        wall_clock: Unix time in seconds.
    """

    needs_secret = True

    def __init__(
        self,
        ask: Ask,
        *,
        log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask = ask
        self._log = log or (lambda line: None)
        self._clock = clock
        self._wall_clock = wall_clock
        self._yes: OrderedDict[bytes, _Answer] = OrderedDict()
        self._no: OrderedDict[bytes, _Answer] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Answer | None]] = {}
        self._threads = ThreadPoolExecutor(MAX_QUESTIONS, thread_name_prefix="clearml-token")
        self._away_until = 0.0
        self._is_away = False

    def known(self, secret: str | None) -> Identity | None:
        """Return whose token this is, if the server said yes less than a minute ago."""
        if not secret:
            return None
        answer = self._yes.get(_digest(secret))
        return answer.identity if answer is not None and self._clock() < answer.until else None

    async def identify(self, secret: str | None) -> Identity | None:
        """Return whose token this is; asks the server unless it has just said.

        Raises:
            RequestError: The token is valid, and may not read the task.
            CapacityError: The server does not answer, or too many tokens wait to be asked about.
        """
        if not secret:
            return None
        claims = read_claims(secret)
        if claims is None:
            return None
        digest = _digest(secret)
        answer = self._kept(digest)
        if answer is None:
            # Shielded: who leaves while waiting must not take the answer from the others.
            answer = await asyncio.shield(self._question(secret, digest, claims))
        if answer is None:
            raise _cannot_ask()
        if answer.verdict is Verdict.MAY_NOT_READ:
            raise RequestError(
                "The ClearML server does not let this token's user read the instance's task: ask for "
                "access to its project.",
                status=403,
                error_type="permission_error",
                code="task_not_readable",
            )
        return answer.identity if answer.verdict is Verdict.MAY_READ else None

    def refuse(self, secret: str | None) -> RequestError:
        """Return the 401; it does not repeat the token."""
        if secret is None:
            return RequestError(
                "This instance asks for a ClearML token: send 'Authorization: Bearer <token>'. "
                "`clearml-deploy token` prints one.",
                status=401,
                code="missing_token",
            )
        return RequestError(
            "The ClearML server of this instance does not know this token, or it has expired; "
            "`clearml-deploy token` prints a new one.",
            status=401,
            code="invalid_token",
        )

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _kept(self, digest: bytes) -> _Answer | None:
        for answers in (self._yes, self._no):
            answer = answers.get(digest)
            if answer is not None:
                if self._clock() < answer.until:
                    return answer
                del answers[digest]
        return None

    def _question(self, token: str, digest: bytes, claims: Claims) -> asyncio.Task[_Answer | None]:
        """Return the running question about a token, or a new one."""
        task = self._asking.get(digest)
        if task is None:
            if self._clock() < self._away_until:
                raise _cannot_ask()
            if len(self._asking) >= MAX_QUESTIONS + MAX_WAITING:
                raise CapacityError(
                    "Too many tokens wait to be checked by the ClearML server.",
                    retry_after_s=RETRY_AFTER_S,
                )
            task = asyncio.get_running_loop().create_task(self._settle(token, digest, claims))
            self._asking[digest] = task
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        return task

    async def _settle(self, token: str, digest: bytes, claims: Claims) -> _Answer | None:
        """Ask, and keep the answer; None when there was none."""
        loop = asyncio.get_running_loop()
        try:
            verdict = await loop.run_in_executor(self._threads, self._ask, token)
        except ServerAwayError as error:
            self._away(str(error))
            return None
        except Exception as error:  # noqa: BLE001 - a token is never let in because of a mistake
            self._away(f"{type(error).__name__}: {error}")
            return None
        if self._is_away:
            self._is_away = False
            self._log("The ClearML server answers questions about tokens again.")
        answer = _Answer(
            verdict, Identity(claims.name, Role.USE), self._clock() + self._holds_s(verdict, claims)
        )
        answers = self._yes if verdict is Verdict.MAY_READ else self._no
        answers[digest] = answer
        while len(answers) > MAX_ANSWERS:
            answers.popitem(last=False)
        return answer

    def _holds_s(self, verdict: Verdict, claims: Claims) -> float:
        if verdict is not Verdict.MAY_READ:
            return NO_S
        if claims.expires is None:
            return YES_S
        left_s = claims.expires - self._wall_clock()
        return min(YES_S, left_s) if left_s > 0 else NO_S

    def _away(self, why: str) -> None:
        self._away_until = self._clock() + AWAY_S
        if not self._is_away:
            self._is_away = True
            self._log(
                f"The ClearML server cannot be asked about tokens; requests get 503 meanwhile: {why}"
            )


def read_claims(token: str) -> Claims | None:
    """Read what a token says of itself, without any check; None when it is no token (a JWT)."""
    match = _TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN_LENGTH else None
    if match is None:
        return None
    part = match.group(1)
    try:
        payload = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    if not isinstance(payload, dict):
        return None
    identity = payload.get("identity")
    user = identity if isinstance(identity, dict) else {}
    name = user.get("user_name") or user.get("user")
    printable = "".join(c for c in name if c.isprintable()) if isinstance(name, str) else ""
    ends = payload.get("exp")
    is_number = isinstance(ends, (int, float)) and not isinstance(ends, bool)
    return Claims(
        name=printable.strip()[:MAX_NAME_LENGTH] or "clearml",
        expires=float(ends) if ends is not None and is_number else None,
    )


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def _cannot_ask() -> CapacityError:
    return CapacityError(
        "The ClearML server that decides about this token does not answer; try again later.",
        retry_after_s=RETRY_AFTER_S,
    )

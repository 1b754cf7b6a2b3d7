"""A stand-in for an engine: a real child process that speaks the OpenAI wire.

    python tests/fakes/stub_engine.py --socket /path/engine.sock --tokens 8 --token-delay 0.01

The text that it "generates" is the words ``tok0 tok1 ...``, so that tests know every byte. What it
saw is at ``GET /stub/stats``; ``/v1/echo`` returns the request's body, ``/v1/inspect`` describes
the request. A request's ``stub_seconds`` is how long its answer takes, its ``stub_status`` an error to
answer with. With ``STUB_API_KEY`` in its environment it asks for that key as vLLM does.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import mmap
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from aiohttp import web

# Engine routes that a gateway must never let through; the stub counts the calls that arrive.
ADMIN_ROUTES = (
    "/slots",
    "/slots/{rest:.*}",
    "/props",
    "/lora-adapters",
    "/models/load",
    "/models/unload",
    "/sleep",
    "/wake_up",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/is_sleeping",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/server_info",
    "/invocations",
    "/start_profile",
    "/stop_profile",
    "/scale_elastic_ep",
    "/update_config",
    "/load",
    "/version",
)
# Where a vLLM with a key asks for it; health and metrics are open there.
GUARDED_PREFIXES = ("/v1/", "/v2/")


@dataclass
class Stats:
    """What the stub saw; served at ``/stub/stats``."""

    requests: int = 0
    completed: int = 0
    cancelled: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    admin_hits: int = 0
    metrics_hits: int = 0
    connections: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    paths: list[str] = field(default_factory=list)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--socket")
    parser.add_argument("--name", default="stub", help="model name in its answers")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="/health is 503 so long")
    parser.add_argument("--never-ready", action="store_true", help="/health stays 503")
    parser.add_argument("--listen-after", type=float, default=0.0, help="refuse connections first")
    parser.add_argument("--tokens", type=int, default=5)
    parser.add_argument("--token-delay", type=float, default=0.0, help="seconds between tokens")
    parser.add_argument("--first-delay", type=float, default=0.0, help="seconds to the first token")
    parser.add_argument("--end-delay", type=float, default=0.0, help="seconds after [DONE]")
    parser.add_argument("--as-asked", action="store_true", help="streams as vLLM's: usage if asked")
    parser.add_argument("--counts-late", type=float, default=0.0, help="metrics know it so late")
    parser.add_argument("--ledger", help="file that gets a line for the tokens of all its lives")
    parser.add_argument("--crash-after", type=int, help="exit(1) at the request after so many")
    parser.add_argument("--exit-after", type=float, help="exit so many seconds after start")
    parser.add_argument("--die-mid-stream", action="store_true", help="the process dies mid-stream")
    parser.add_argument("--cut-mid-stream", action="store_true", help="the socket dies mid-stream")
    parser.add_argument("--close-after-stream", action="store_true", help="as llama.cpp does")
    parser.add_argument("--ignore-term", action="store_true", help="ignores SIGTERM and SIGINT")
    parser.add_argument("--fork-child", action="store_true", help="a child that keeps the pipes")
    parser.add_argument("--exit-code", type=int, help="exit at once (or at --exit-after) with it")
    parser.add_argument("--starts", help="file that gets a line at each start")
    parser.add_argument("--fail-while", help="exit(1) with this file's words while it is there")
    parser.add_argument("--ballast-mib", type=int, default=0, help="memory that POST /sleep frees")
    parser.add_argument("--print", action="append", default=[], dest="lines", metavar="LINE")
    parser.add_argument("--last-words", default="", help="printed when it ends")
    parser.add_argument("--print-stderr", action="append", default=[], metavar="LINE")
    args = parser.parse_args(argv)
    if (args.port is None) == (args.socket is None):
        parser.error("give one of --port and --socket")
    return args


class StubEngine:
    """Handlers of one stub process."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.stats = Stats()
        self.started = time.monotonic()
        self._transports: set[int] = set()
        self._ballast: mmap.mmap | None = None
        self._load_ballast()

    def _load_ballast(self) -> None:
        if self.args.ballast_mib and self._ballast is None:
            self._ballast = mmap.mmap(-1, self.args.ballast_mib << 20)
            for page in range(0, len(self._ballast), mmap.PAGESIZE):
                self._ballast[page] = 1

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30, middlewares=[self._count])
        add = app.router.add_route
        add("GET", "/health", self.health)
        add("GET", "/v1/models", self.models)
        add("POST", "/v1/chat/completions", self.chat)
        add("POST", "/v1/completions", self.completions)
        add("POST", "/completion", self.completions)
        add("POST", "/v1/messages", self.messages)
        add("POST", "/v1/embeddings", self.embeddings)
        add("POST", "/v1/audio/transcriptions", self.transcriptions)
        for route in ("/v1/score", "/v2/rerank", "/pooling", "/classify"):
            add("POST", route, self.echo)
        add("POST", "/tokenize", self.tokenize)
        add("POST", "/detokenize", self.detokenize)
        add("POST", "/apply-template", self.apply_template)
        add("GET", "/metrics", self.metrics)
        add("GET", "/stub/stats", self.show_stats)
        add("*", "/v1/echo", self.echo)
        add("*", "/v1/inspect", self.inspect)
        add("GET", "/v1/gzip", self.gzipped)
        add("GET", "/v1/bytes/{count:\\d+}", self.bytes_)
        add("GET", "/v1/cut/{count:\\d+}", self.cut)
        add("*", "/v1/fail/{status:\\d+}", self.fail)
        for route in ADMIN_ROUTES:
            add("*", route, self.admin)
        return app

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if id(request.transport) not in self._transports:
            self._transports.add(id(request.transport))
            self.stats.connections += 1
        if request.path in ("/health", "/stub/stats", "/metrics"):
            return await handler(request)
        key = os.environ.get("STUB_API_KEY")
        if key and request.path.startswith(GUARDED_PREFIXES):
            if request.headers.get("Authorization") != f"Bearer {key}":
                return web.json_response({"error": "Unauthorized"}, status=401)
        stats = self.stats
        stats.requests += 1
        stats.paths.append(request.path)
        limit = self.args.crash_after
        if limit is not None and stats.requests > limit:
            os._exit(1)
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        try:
            response = await handler(request)
            stats.completed += 1
            return response
        except (asyncio.CancelledError, ConnectionError):
            stats.cancelled += 1
            raise
        finally:
            stats.in_flight -= 1

    def _loading(self) -> bool:
        age = time.monotonic() - self.started
        return self.args.never_ready or age < self.args.load_seconds

    async def health(self, request: web.Request) -> web.Response:
        if self._loading():
            error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
            return web.json_response({"error": error}, status=503)
        return web.json_response({"status": "ok"})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": self.args.name, "object": "model"}]}
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if "stub_status" in body:
            return self._error(body["stub_status"])
        words = sum(len(str(m.get("content", "")).split()) for m in body.get("messages", []))
        return await self._generate(request, body, words, is_chat=True)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._generate(request, body, len(str(body.get("prompt", "")).split()), False)

    async def _generate(
        self, request: web.Request, body: dict[str, Any], prompt_tokens: int, is_chat: bool
    ) -> web.StreamResponse:
        count = int(body.get("max_tokens") or body.get("max_completion_tokens") or self.args.tokens)
        self._count_tokens(prompt_tokens, 0)
        if body.get("stream"):
            return await self._stream(request, body, count, prompt_tokens, is_chat)
        seconds = self.args.first_delay + self.args.token_delay * count
        await asyncio.sleep(body.get("stub_seconds", seconds))
        text = " ".join(f"tok{i}" for i in range(count))
        self._count_tokens(0, count)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        return web.json_response(
            self._envelope(is_chat, "", [choice]) | self._usage(prompt_tokens, count)
        )

    def _count_tokens(self, prompt: int, generated: int) -> None:
        def count() -> None:
            self.stats.prompt_tokens += prompt
            self.stats.generated_tokens += generated

        if self.args.counts_late:
            asyncio.get_running_loop().call_later(self.args.counts_late, count)
        else:
            count()
        if self.args.ledger:
            with open(self.args.ledger, "a", encoding="utf-8") as ledger:
                ledger.write(f"{prompt} {generated}\n")

    def _envelope(
        self, is_chat: bool, suffix: str, choices: list[dict[str, Any]]
    ) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if is_chat else "text_completion"
        return {
            "id": "stub-1",
            "object": kind,
            "created": 1,
            "model": self.args.name,
            "choices": choices,
        }

    def _usage(self, prompt_tokens: int, count: int) -> dict[str, Any]:
        total = prompt_tokens + int(count)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": int(count)}
        return {"usage": usage | {"total_tokens": total}}

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        count: int,
        prompt_tokens: int,
        is_chat: bool,
    ) -> web.StreamResponse:
        seconds = body.get("stub_seconds", self.args.token_delay * count)
        has_usage = (body.get("stream_options") or {}).get("include_usage")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if self.args.close_after_stream:
            response.headers["Keep-Alive"] = "timeout=5, max=100"  # a promise it breaks below
        await response.prepare(request)
        await asyncio.sleep(self.args.first_delay)
        if self.args.as_asked and is_chat:
            opening = {"index": 0, "delta": {"role": "assistant", "content": ""}}
            await self._send_event(response, self._envelope(is_chat, ".chunk", [opening]))
        for index in range(count):
            if index == max(1, count // 2):
                self._misbehave(request)
            text = f"tok{index} "
            choice: dict[str, Any] = {"index": 0, "finish_reason": None}
            choice |= {"delta": {"content": text}} if is_chat else {"text": text}
            await self._send_event(response, self._envelope(is_chat, ".chunk", [choice]))
            self._count_tokens(0, 1)
            if seconds:
                await asyncio.sleep(seconds / count)
        last: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        last |= {"delta": {}} if is_chat else {"text": ""}
        usage = self._usage(prompt_tokens, count)
        if not self.args.as_asked:
            await self._send_event(response, self._envelope(is_chat, ".chunk", [last]) | usage)
        elif has_usage:
            await self._send_event(response, self._envelope(is_chat, ".chunk", []) | usage)
        await response.write(b"data: [DONE]\n\n")
        await asyncio.sleep(self.args.end_delay)
        await response.write_eof()
        if self.args.close_after_stream and request.transport is not None:
            request.transport.close()
        return response

    async def _send_event(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _misbehave(self, request: web.Request) -> None:
        if self.args.die_mid_stream:
            os._exit(1)
        if self.args.cut_mid_stream and request.transport is not None:
            request.transport.abort()
            raise ConnectionResetError

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Anthropic's wire."""
        body = await request.json()
        prompt_tokens = sum(len(str(m["content"]).split()) for m in body["messages"])
        count = int(body["max_tokens"])
        usage = {"input_tokens": prompt_tokens, "output_tokens": count}
        message = {"id": "stub-1", "type": "message", "role": "assistant", "usage": usage}
        message |= {"model": self.args.name, "stop_reason": "end_turn", "stop_sequence": None}
        self.stats.prompt_tokens += prompt_tokens
        if not body.get("stream"):
            await asyncio.sleep(self.args.first_delay + self.args.token_delay * count)
            text = " ".join(f"tok{i}" for i in range(count))
            self.stats.generated_tokens += count
            return web.json_response(message | {"content": [{"type": "text", "text": text}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def tell(kind: str, **data: Any) -> None:
            event = json.dumps({"type": kind} | data)
            await response.write(f"event: {kind}\ndata: {event}\n\n".encode())

        await asyncio.sleep(self.args.first_delay)
        await tell("message_start", message=message | {"content": []})
        await tell("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for index in range(count):
            if index == max(1, count // 2):
                self._misbehave(request)
            delta = {"type": "text_delta", "text": f"tok{index} "}
            await tell("content_block_delta", index=0, delta=delta)
            self.stats.generated_tokens += 1
            await asyncio.sleep(self.args.token_delay)
        await tell("content_block_stop", index=0)
        last = {"stop_reason": "end_turn", "stop_sequence": None}
        await tell("message_delta", delta=last, usage=usage)
        await tell("message_stop")
        await response.write_eof()
        return response

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        self._count_tokens(len(inputs), 0)
        await asyncio.sleep(body.get("stub_seconds", 0.0))
        data = [
            {"object": "embedding", "index": i, "embedding": [0.5, float(i)]}
            for i in range(len(inputs))
        ]
        return web.json_response(
            {"object": "list", "model": self.args.name, "data": data}
            | {"usage": {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}}
        )

    async def transcriptions(self, request: web.Request) -> web.Response:
        form = await request.post()
        upload = form["file"]
        content = upload.file.read()  # type: ignore[union-attr]
        digest = hashlib.sha256(content).hexdigest()
        return web.json_response({"text": digest, "model": form.get("model"), "size": len(content)})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"tokens": list(range(len(str(body["content"]).split())))})

    async def detokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"content": " ".join(f"tok{i}" for i in body["tokens"])})

    async def apply_template(self, request: web.Request) -> web.Response:
        body = await request.json()
        # One token ("<turn>") a message on top of its words.
        turns = [f"<turn> {m.get('content', '')}" for m in body["messages"]]
        return web.json_response({"prompt": " ".join(turns)})

    async def metrics(self, request: web.Request) -> web.Response:
        self.stats.metrics_hits += 1
        text = (
            "# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.\n"
            "# TYPE llamacpp:prompt_tokens_total counter\n"
            f"llamacpp:prompt_tokens_total {self.stats.prompt_tokens}\n"
            "# HELP llamacpp:tokens_predicted_total Number of generation tokens processed.\n"
            "# TYPE llamacpp:tokens_predicted_total counter\n"
            f"llamacpp:tokens_predicted_total {self.stats.generated_tokens}\n"
        )
        return web.Response(text=text)

    async def show_stats(self, request: web.Request) -> web.Response:
        return web.json_response(vars(self.stats) | {"pid": os.getpid()})

    async def echo(self, request: web.Request) -> web.Response:
        kind = request.headers.get("Content-Type", "application/octet-stream")
        return web.Response(body=await request.read(), headers={"Content-Type": kind})

    async def inspect(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        size = 0
        async for chunk in request.content.iter_any():
            digest.update(chunk)
            size += len(chunk)
        return web.json_response(
            {
                "method": request.method,
                "path": request.raw_path,
                "headers": [[k, v] for k, v in request.headers.items()],
                "size": size,
                "sha256": digest.hexdigest(),
                "name": self.args.name,
            }
        )

    async def gzipped(self, request: web.Request) -> web.Response:
        body = gzip.compress(b'{"compressed": true}' * 50, mtime=0)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async def bytes_(self, request: web.Request) -> web.Response:
        count = int(request.match_info["count"])
        return web.Response(body=(bytes(range(251)) * (count // 251 + 1))[:count])

    async def cut(self, request: web.Request) -> web.StreamResponse:
        """Half of an answer whose length was promised."""
        count = int(request.match_info["count"])
        response = web.StreamResponse(headers={"Content-Length": str(count)})
        await response.prepare(request)
        await response.write(b"x" * (count // 2))
        await asyncio.sleep(0.05)  # so that it is sent
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError

    async def fail(self, request: web.Request) -> web.Response:
        return self._error(int(request.match_info["status"]))

    def _error(self, status: int) -> web.Response:
        error = {"message": "the engine's own words", "type": "stub_error", "code": status}
        return web.json_response({"error": error}, status=status, headers={"X-Stub": "failed"})

    async def admin(self, request: web.Request) -> web.Response:
        self.stats.admin_hits += 1
        if request.path == "/sleep" and self._ballast is not None:
            self._ballast.close()
            self._ballast = None
        if request.path == "/wake_up":
            self._load_ballast()
        return web.json_response({"admin": True})


def say(line: str, stream: TextIO | None = None) -> None:
    """Write one line at once, as a program does that is watched through a pipe."""
    stream = stream or sys.stdout
    stream.write(line + "\n")
    stream.flush()


async def serve(args: argparse.Namespace) -> int:
    """Listen until SIGTERM or SIGINT, or `--exit-after`; return the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if not args.ignore_term:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    if args.listen_after:
        await asyncio.sleep(args.listen_after)
    runner = web.AppRunner(StubEngine(args).app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    if args.socket is not None:
        site: web.BaseSite = web.UnixSite(runner, args.socket)
    else:
        site = web.TCPSite(runner, args.host, args.port)
    await site.start()
    say(f"stub engine {args.name} listening on {site.name}")
    try:
        await asyncio.wait_for(stop.wait(), args.exit_after)
    except (TimeoutError, asyncio.TimeoutError):
        os._exit(args.exit_code or 0)
    await asyncio.wait_for(runner.cleanup(), 1.0)
    return 0


def keep_pipes_in_a_child() -> None:
    """Fork a child that outlives SIGTERM to its parent and keeps stdout open."""
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    say(f"forked child {pid}")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in args.lines:
        say(line)
    if args.starts:
        with open(args.starts, "a", encoding="utf-8") as starts:
            starts.write(f"{os.getpid()}\n")
    if args.fail_while and os.path.exists(args.fail_while):
        with open(args.fail_while, encoding="utf-8") as words:
            say(words.read())
        return 1
    for line in args.print_stderr:
        say(line, sys.stderr)
    if args.fork_child:
        keep_pipes_in_a_child()
    if args.exit_code is not None and args.exit_after is None:
        return args.exit_code
    code = asyncio.run(serve(args))
    if args.last_words:
        say(args.last_words)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Header fields: what passes a proxy, what ends at it, what it adds."""

from __future__ import annotations

from uuid import UUID

import pytest
from conformance_rig import HEAD, KEY, RawEngineProcess, Rig, gateway, model, request, said

OK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"


def fields_at_engine(
    rig: Rig, *fields: bytes, version: bytes = b"HTTP/1.1"
) -> dict[str, list[str]]:
    seen = rig.ask(request("GET", "/v1/seen", *fields, version=version)).json
    found: dict[str, list[str]] = {}
    for name, value in seen["fields"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def test_end_to_end_fields_pass_as_they_came(shared: Rig) -> None:
    fields = [
        b"X-Twice: one",
        b"x-tWICE: two",
        b"X-Bytes: caf\xe9 \xff",
        b'X-Quoted: "a, b"; q=1\ttab',
        b"X-Empty:",
        b"Accept: */*",
        b"Accept-Encoding: gzip",
        b"OpenAI-Organization: org",
        b"Transfer_Encoding: chunked",
    ]
    seen = shared.ask(request("GET", "/v1/seen", *fields)).json["fields"]
    expected = [[n, v.strip()] for n, _, v in (f.decode("latin-1").partition(":") for f in fields)]
    assert [field for field in seen if field in expected] == expected


@pytest.mark.parametrize(
    "target", ["/v1/seen?a=%2F&b=c%20d&e=+&", "/v1/%61%2fb/", "/v1/~!$&'()*;=:@"]
)
def test_the_target_passes_byte_by_byte(shared: Rig, target: str) -> None:
    assert shared.ask(request("GET", target)).json["target"] == target


def test_hop_by_hop_fields_of_a_request_end_here(shared: Rig) -> None:
    seen = fields_at_engine(
        shared,
        b"Connection: X-One, close , x-TWO,,Keep-Alive",
        b"connection: X-Three",
        b"X-One: 1",
        b"x-two: 1",
        b"X-Three: 1",
        b"X-Four: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic x",
        b"TE: trailers",
        b"Trailer: X-Four",
        b"Upgrade: websocket",
    )
    dropped = {"connection", "x-one", "x-two", "x-three", "keep-alive", "proxy-connection"}
    dropped |= {"proxy-authorization", "te", "trailer", "upgrade"}
    assert not dropped & set(seen)
    assert seen["x-four"] == ["1"]


def test_connection_cannot_take_away_what_frames_or_identifies(shared: Rig) -> None:
    names = b"Content-Length, Transfer-Encoding, Host, X-Forwarded-For, X-Request-Id, X-Api-Key"
    with shared.client() as client:
        seen = client.ask(request("POST", "/v1/seen", b"Connection: " + names, body=b"abc")).json
        assert seen["body"] == "abc"
        assert {"host", "x-forwarded-for", "x-request-id"} <= {n.lower() for n, _ in seen["fields"]}
        assert client.is_open()


def test_credentials_do_not_reach_the_engine(shared: Rig) -> None:
    fields = [b"Authorization: Bearer " + KEY.encode(), b"Cookie: a=b", b"Forwarded: for=1.2.3.4"]
    seen = fields_at_engine(shared, *fields)
    assert not {"authorization", "cookie", "x-api-key", "forwarded"} & set(seen)


def test_the_engine_learns_who_asked_and_how(shared: Rig, engine: RawEngineProcess) -> None:
    seen = fields_at_engine(shared)
    assert seen["host"] == [f"127.0.0.1:{engine.port}"]
    assert seen["x-forwarded-for"] == ["127.0.0.1"]
    assert seen["x-forwarded-proto"] == ["http"]
    assert seen["x-forwarded-host"] == ["x"]


def test_what_a_proxy_in_front_says_is_kept(shared: Rig) -> None:
    fields = [b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: front"]
    seen = fields_at_engine(shared, *fields, b"X-Forwarded-For: 2.2.2.2, 3.3.3.3")
    assert seen["x-forwarded-for"] == ["1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1"]
    assert seen["x-forwarded-proto"] == ["https"]
    assert seen["x-forwarded-host"] == ["front"]


@pytest.mark.parametrize("path", ["/v1/seen", "/none", "/v1/load_lora_adapter"])
def test_a_sane_request_id_is_kept_and_returned(shared: Rig, path: str) -> None:
    answer = shared.ask(request("GET", path, b"X-Request-Id: my-id_1.2:3"))
    assert answer.get("X-Request-Id") == "my-id_1.2:3"
    if answer.status == 200:
        assert ["X-Request-Id", "my-id_1.2:3"] in answer.json["fields"]


@pytest.mark.parametrize("given", [None, b"", b"a b", b"x" * 200, b"\xff", b"a\tb"])
def test_otherwise_a_request_id_is_made(shared: Rig, given: bytes | None) -> None:
    fields = [] if given is None else [b"X-Request-Id: " + given]
    ids = set()
    for _ in range(3):
        answer = shared.ask(request("GET", "/v1/seen", *fields))
        sent = [v for n, v in answer.json["fields"] if n.lower() == "x-request-id"]
        assert sent == [answer.get("X-Request-Id")]
        ids.update(sent)
    assert len(ids) == 3
    assert {str(UUID(text)) for text in ids} == ids  # some engines take no other ID


def test_the_engine_fields_pass_and_its_hop_by_hop_fields_do_not(shared: Rig) -> None:
    path = said(
        f'{OK}Server: engine\r\nX-Twice: 1\r\nX-Twice: 2\r\nVary: Accept\r\nETag: "x"\r\n'
        "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: text/x\r\nSet-Cookie: a=b\r\n"
        "Connection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\nX-Request-Id: engine\r\n"
        "Trailer: x\r\nProxy-Connection: close\r\nAccess-Control-Allow-Origin: *\r\n\r\n"
    )
    answer = shared.ask(request("GET", path, b"X-Request-Id: mine"))
    assert answer.get("Server") == "engine"
    assert answer.all("X-Twice") == ["1", "2"]
    assert answer.get("Vary") == "Accept"
    assert answer.get("ETag") == '"x"'
    assert answer.all("Date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert answer.get("Content-Type") == "text/x"
    assert answer.get("X-Request-Id") == "mine"
    gone = ["X-Gone", "Keep-Alive", "Trailer", "Proxy-Connection", "Access-Control-Allow-Origin"]
    assert [answer.all(name) for name in [*gone, "Connection"]] == [[]] * 6


def test_an_answer_without_a_date_gets_one(shared: Rig) -> None:
    assert len(shared.ask(request("GET", said(f"{OK}\r\n"))).all("Date")) == 1


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        ("HTTP/1.1 200 OK", 200, "OK"),
        ("HTTP/1.1 299 Just so", 299, "Just so"),
        ("HTTP/1.1 404 caf\xe9", 404, "caf\xe9"),
        ("HTTP/1.1 599 ", 599, ""),
        ("HTTP/1.1 200 O\x01K", 200, "OK"),
    ],
)
def test_status_and_reason_pass(shared: Rig, line: str, status: int, reason: str) -> None:
    answer = shared.ask(request("GET", said(f"{line}\r\nContent-Length: 2\r\n\r\nok")))
    assert (answer.status, answer.reason, answer.body) == (status, reason, b"ok")


ORIGIN = b"Origin: https://app.example"
PREFLIGHT = [ORIGIN, b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: X-A"]


def test_options_is_forwarded_and_cors_is_off_by_default(shared: Rig) -> None:
    answer = shared.ask(request("OPTIONS", "/v1/seen", *PREFLIGHT), "OPTIONS")
    assert answer.json["method"] == "OPTIONS"
    assert not [n for n, _ in answer.fields if n.lower().startswith("access-control")]


@pytest.mark.parametrize("allowed", ["https://app.example", "*"])
def test_a_preflight_of_an_allowed_origin_needs_no_key(
    engine: RawEngineProcess, allowed: str
) -> None:
    with gateway([model(engine)], cors_origins=(allowed,)) as rig, rig.client() as client:
        data = request("OPTIONS", "/v1/seen", *PREFLIGHT).replace(KEY.encode(), b"wrong")
        answer = client.ask(data)
        assert answer.status == 204
        assert answer.get("Access-Control-Allow-Origin") == allowed
        assert "POST" in (answer.get("Access-Control-Allow-Methods") or "")
        assert answer.get("Access-Control-Allow-Headers") == "X-A"
        assert answer.get("Access-Control-Allow-Credentials") is None
        for path in ("/v1/seen", "/nowhere"):
            answer = client.ask(request("GET", path, ORIGIN))
            assert answer.get("Access-Control-Allow-Origin") == allowed


def test_other_origins_get_no_permission(engine: RawEngineProcess) -> None:
    with gateway([model(engine)], cors_origins=("https://app.example",)) as rig:
        for origin in (b"Origin: https://app.example.evil", b"Origin: null", b"X: y"):
            answer = rig.ask(request("GET", said(f"{OK}Vary: Accept\r\n\r\n"), origin))
            assert answer.get("Access-Control-Allow-Origin") is None
            assert answer.all("Vary") == ["Accept", "Origin"]  # caches must tell them apart


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET http://other:1/m/v1/seen?q=1 HTTP/1.1", 200),
        (b"GET HTTP://other/m/v1/seen?q=1 HTTP/1.1", 200),
        (b"GET http:///m/v1/seen?q=1 HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"OPTIONS * HTTP/1.1", 400),
        (b"GET m/v1/seen HTTP/1.1", 400),
        (b"GET //m/v1/seen HTTP/1.1", 400),
        (b"GET /m/v1/seen?q=1#f HTTP/1.1", 400),
        (b"GET /m/v1/../v1/seen HTTP/1.1", 400),
        (b"GET /m/v1/%2e%2e/slots HTTP/1.1", 400),
        (b"GET /m/v1/a%00b HTTP/1.1", 400),
        (b"CONNECT other:443 HTTP/1.1", 400),
        (b"TRACE /m/v1/seen HTTP/1.1", 405),
        (b"BREW /m/v1/seen HTTP/1.1", 400),
    ],
)
def test_forms_of_targets_and_methods(shared: Rig, start: bytes, status: int) -> None:
    answer = shared.ask(start + b"\r\n" + HEAD + b"\r\n", start.split()[0].decode())
    assert answer.status == status
    if status == 200:
        assert answer.json["target"] == "/v1/seen?q=1"
    else:
        assert answer.code

"""What looks like a secret is masked, ordinary text is left."""

from __future__ import annotations

import time

import pytest

from common.runtime.redaction import Redactor, secret_variables

TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {TOKEN} given", "token ****** given"),
        ("GET https://user:pass@host/x", "GET https://user:******@host/x"),
        ("pulling http://s3cret@proxy:3128", "pulling http://******@proxy:3128"),
        (
            "https://b.s3/x?X-Amz-Date=1&X-Amz-Signature=abc123&a=b",
            "https://b.s3/x?X-Amz-Date=1&X-Amz-Signature=******&a=b",
        ),
        ("http://h/v1?api_key=k1&model=m", "http://h/v1?api_key=******&model=m"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ******"),
        ("{'authorization': 'Basic Zm9v', 'x': 1}", "{'authorization': 'Basic ******', 'x': 1}"),
        ("headers={'X-Api-Key': 'k-123'}", "headers={'X-Api-Key': '******'}"),
        ("sent bearer abcdefgh12345", "sent bearer ******"),
    ],
)
def test_secrets_are_masked_by_their_form(text: str, shown: str) -> None:
    assert Redactor().clean(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "download from https://huggingface.co/org/model?download=true done",
        "max_tokens=24, token_id=3, tokenizer='/m', keys=4",
        "hf_hub_resolver, hf_transfer",
        "mail user@example.com or see http://host/a@b",
        "5.2 tokens per second, KV cache key=value",
    ],
)
def test_ordinary_text_is_left(text: str) -> None:
    assert Redactor().clean(text) == text


def test_a_secret_within_another_leaves_no_rest() -> None:
    redactor = Redactor()
    redactor.hide(["abcdef"])
    redactor.hide(["abcdef-and-more", None, "short"])
    assert redactor.clean("x abcdef-and-more y abcdef short") == "x ****** y ****** short"


def test_variables_are_secret_by_their_names() -> None:
    environ = {
        "HF_TOKEN": "hf-token-value",
        "CLEARML_API_SECRET_KEY": "clearml-secret",
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "HF_TOKEN_PATH": "/root/.cache/token",
        "TOKENIZERS_PARALLELISM": "false-false",
        "MY_PASSWORD": "short",
    }
    assert secret_variables(environ) == ["hf-token-value", "clearml-secret", "aws-secret"]


@pytest.mark.parametrize("piece", ["a", "://", "bearer ", "?token", "authorization:", "&key=", "@"])
def test_a_line_of_an_engine_takes_no_time_worth_mentioning(piece: str) -> None:
    text = f"x://authorization bearer {piece * (65536 // len(piece))}"
    started = time.process_time()
    Redactor().clean(text)
    # Linear takes milliseconds; with the square of the length it would be a minute.
    assert time.process_time() - started < 5

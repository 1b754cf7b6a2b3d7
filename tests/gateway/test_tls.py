"""HTTPS with certificates of a real authority, and real clients."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import openai
import pytest
import requests
import trustme
from gateway_harness import KEY, StubProcess, running, served

from common.errors import ConfigurationError
from common.gateway.tls import CertificateFiles, TlsContexts, certificate_warning, load_context

NAME = "org/repo/M.gguf"


class Authority:
    """An authority, and the files of the certificates that it issues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self.files = CertificateFiles(folder / "server.pem", folder / "server.key")

    def issue(self, *, valid: timedelta = timedelta(days=90), begins: int = -1) -> trustme.LeafCert:
        now = datetime.now(timezone.utc)
        return self._ca.issue_cert(
            "localhost",
            "127.0.0.1",
            not_before=now + timedelta(days=begins) - timedelta(days=400),
            not_after=now + valid,
        )

    def write(self, leaf: trustme.LeafCert) -> CertificateFiles:
        """Replace both files, as tools that renew certificates do: each by a rename."""
        for path, blobs in (
            (self.files.certificate, leaf.cert_chain_pems),
            (self.files.key, [leaf.private_key_pem]),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(b"".join(blob.bytes() for blob in blobs))
            os.replace(new, path)
        return self.files

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.file))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.write(made.issue())
    return made


async def serial(port: int, client: ssl.SSLContext, name: str | None = "localhost") -> int:
    """The serial number of the certificate that a new connection gets."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client, server_hostname=name or "127.0.0.1"
    )
    found = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    await writer.wait_closed()
    return int(found, 16)


def contexts(authority: Authority, lines: list[str], clock: list[float]) -> TlsContexts:
    return TlsContexts(authority.files, lines.append, clock=lambda: clock[0])


async def test_real_clients_are_served_by_https(stub: StubProcess, authority: Authority) -> None:
    tls = contexts(authority, [], [0.0])
    async with running([served(stub)], tls=tls.context) as run:
        base = f"https://localhost:{run.gateway.port}"
        assert run.gateway.base_url == f"https://127.0.0.1:{run.gateway.port}"
        ca = str(authority.file)

        def by_requests() -> int:
            headers = {"Authorization": f"Bearer {KEY}"}
            answer = requests.get(f"{base}/v1/models", headers=headers, verify=ca, timeout=10)
            return answer.status_code

        def by_curl() -> str:
            argv = ["curl", "-sS", "--cacert", ca, "-H", f"X-Api-Key: {KEY}", f"{base}/v1/models"]
            return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout

        def by_openai() -> int:
            http = openai.DefaultHttpxClient(verify=authority.client())
            with openai.OpenAI(base_url=f"{base}/v1", api_key=KEY, http_client=http) as client:
                stream = client.chat.completions.create(
                    model=NAME, messages=[{"role": "user", "content": "hi"}], stream=True
                )
                return sum(1 for _ in stream)

        assert await asyncio.to_thread(by_requests) == 200
        assert NAME in await asyncio.to_thread(by_curl)
        assert await asyncio.to_thread(by_openai) > 1


async def test_a_client_that_does_not_know_the_authority_refuses(
    stub: StubProcess, authority: Authority
) -> None:
    async with running([served(stub)], tls=contexts(authority, [], [0.0]).context) as run:
        with pytest.raises(ssl.SSLCertVerificationError):
            await serial(run.gateway.port, ssl.create_default_context())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_clients_of_tls_1_2_and_1_3_are_served(
    stub: StubProcess, authority: Authority, version: ssl.TLSVersion
) -> None:
    client = authority.client()
    client.maximum_version = client.minimum_version = version
    async with running([served(stub)], tls=contexts(authority, [], [0.0]).context) as run:
        assert await serial(run.gateway.port, client)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
async def test_a_client_that_only_has_tls_1_1_is_refused(
    stub: StubProcess, authority: Authority
) -> None:
    client = authority.client()
    client.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL would refuse it on the client's side
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    tls = contexts(authority, [], [0.0])
    async with running([served(stub)], tls=tls.context) as run:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await serial(run.gateway.port, client)
    # The same client is served by a context that allows it: it was the version.
    old = load_context(authority.files)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1_1
    async with running([served(stub)], tls=old) as run:
        assert await serial(run.gateway.port, client)


@pytest.mark.parametrize("name", ["localhost", None])
async def test_a_new_certificate_is_for_new_connections_and_cuts_none(
    stub: StubProcess, authority: Authority, name: str | None
) -> None:
    clock, lines = [0.0], []
    tls = contexts(authority, lines, clock)
    async with running([served(stub)], tls=tls.context) as run:
        port, client = run.gateway.port, authority.client()
        before = await serial(port, client, name)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname="localhost"
        )
        authority.write(authority.issue())
        clock[0] += 2
        after = await serial(port, client, name)
        assert after != before
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
        assert [line for line in lines if "loaded again" in line]


async def test_a_pair_that_does_not_match_leaves_the_last_good_one(
    stub: StubProcess, authority: Authority
) -> None:
    clock, lines = [0.0], []
    tls = contexts(authority, lines, clock)
    async with running([served(stub)], tls=tls.context) as run:
        port, client = run.gateway.port, authority.client()
        before = await serial(port, client)
        leaf = authority.issue()
        authority.files.key.write_bytes(leaf.private_key_pem.bytes())
        clock[0] += 2
        assert await serial(port, client) == before
        assert "does not belong" in lines[-1]
        authority.write(leaf)
        clock[0] += 2
        assert await serial(port, client) != before


async def test_a_certificate_that_is_gone_leaves_the_last_good_one(
    stub: StubProcess, authority: Authority
) -> None:
    clock, lines = [0.0], []
    tls = contexts(authority, lines, clock)
    async with running([served(stub)], tls=tls.context) as run:
        before = await serial(run.gateway.port, authority.client())
        authority.files.certificate.unlink()
        clock[0] += 2
        assert await serial(run.gateway.port, authority.client()) == before
        assert "General/tls_certificate_file" in lines[-1]


async def test_a_plain_request_to_the_https_port_gets_no_answer_and_harms_nobody(
    stub: StubProcess, authority: Authority
) -> None:
    async with running([served(stub)], tls=contexts(authority, [], [0.0]).context) as run:
        reader, writer = await asyncio.open_connection("127.0.0.1", run.gateway.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()
        await writer.wait_closed()
        assert await serial(run.gateway.port, authority.client())


def test_files_that_cannot_be_used_are_refused_by_name(authority: Authority) -> None:
    good = authority.files
    folder = authority.folder
    (folder / "text").write_text("no certificate")
    stranger = folder / "stranger.key"
    stranger.write_bytes(authority.issue().private_key_pem.bytes())
    encrypted = folder / "encrypted.key"
    subprocess.run(
        [
            "openssl",
            "pkey",
            "-aes256",
            "-passout",
            "pass:secret",
            "-in",
            good.key,
            "-out",
            encrypted,
        ],
        check=True,
        capture_output=True,
    )
    for files, words in (
        (CertificateFiles(good.certificate, stranger), ("does not belong", str(stranger))),
        (CertificateFiles(good.certificate, encrypted), ("encrypted", "tls_key_file")),
        (CertificateFiles(good.certificate, folder / "gone"), ("cannot be read", "tls_key_file")),
        (CertificateFiles(folder / "text", good.key), ("no PEM", "tls_certificate_file")),
        (CertificateFiles(good.key, good.certificate), ("with a certificate", "with a private")),
        (CertificateFiles(folder, folder), ("directory", "tls_key_file")),
    ):
        with pytest.raises(ConfigurationError) as caught:
            load_context(files)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize(
    ("begins", "valid", "words"),
    [
        (-1, 90, None),
        (-1, 3, "expires in 3 days"),
        (-1, -2, "has expired"),
        (403, 500, "not valid yet"),
    ],
)
def test_a_certificate_that_clients_will_refuse_is_warned_about(
    authority: Authority, begins: int, valid: int, words: str | None
) -> None:
    files = authority.write(authority.issue(begins=begins, valid=timedelta(days=valid)))
    warning = certificate_warning(load_context(files), files.certificate, time.time())
    lines: list[str] = []
    TlsContexts(files, lines.append)
    if words is None:
        assert warning is None
        assert lines == []
    else:
        assert warning is not None
        assert words in warning
        assert lines == [f"WARNING: {warning}"]

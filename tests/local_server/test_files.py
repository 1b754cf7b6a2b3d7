"""The file server: uploads, ranges, deletion, and every way out of its directory."""

from __future__ import annotations

import http.client
import threading
from base64 import b64encode
from urllib.parse import urlsplit

import pytest
import requests

from common.local_server import RunningServer


@pytest.fixture
def auth(clearml_server: RunningServer) -> tuple[str, str]:
    return clearml_server.access_key, clearml_server.secret_key


def upload(server: RunningServer, name: str, data: bytes) -> requests.Response:
    return requests.post(
        server.files_url,
        files={name: ("file", data)},
        auth=(server.access_key, server.secret_key),
        timeout=30,
    )


def raw_request(server: RunningServer, method: str, path: str) -> int:
    """A request whose path is sent as it is, without a client's tidying up."""
    address = urlsplit(server.files_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        key = b64encode(f"{server.access_key}:{server.secret_key}".encode()).decode()
        connection.putrequest(method, path, skip_host=False, skip_accept_encoding=True)
        connection.putheader("Authorization", f"Basic {key}")
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_file_goes_up_and_comes_down(clearml_server: RunningServer, auth: tuple[str, str]) -> None:
    data = bytes(range(256)) * 20_000
    answer = upload(clearml_server, "up/and down/ü.bin", data)
    assert answer.json() == ["/up/and%20down/%C3%BC.bin"]
    url = clearml_server.files_url + answer.json()[0]
    assert requests.get(url, auth=auth, timeout=10).content == data
    part = requests.get(url, auth=auth, headers={"Range": "bytes=10-19"}, timeout=10)
    assert (part.status_code, part.content) == (206, data[10:20])
    head = requests.head(url, auth=auth, timeout=10)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(data)))
    assert upload(clearml_server, "up/and down/ü.bin", b"new").status_code == 200
    assert requests.get(url, auth=auth, timeout=10).content == b"new"
    assert requests.delete(url, auth=auth, timeout=10).status_code == 200
    assert requests.get(url, auth=auth, timeout=10).status_code == 404
    assert not (clearml_server.data_dir / "files" / "up").exists()


@pytest.mark.parametrize("method", ["get", "head", "delete", "post"])
def test_file_needs_credentials(clearml_server: RunningServer, method: str) -> None:
    upload(clearml_server, "kept/file.txt", b"kept")
    url = clearml_server.files_url + ("/" if method == "post" else "/kept/file.txt")
    files = {"kept/file.txt": b"replaced"} if method == "post" else None
    for header in ({}, {"Authorization": "Bearer x.y.z"}):
        response = requests.request(method, url, headers=header, files=files, timeout=10)
        assert response.status_code == 401
    assert (clearml_server.data_dir / "files" / "kept" / "file.txt").read_bytes() == b"kept"


def test_token_opens_files(clearml_server: RunningServer) -> None:
    upload(clearml_server, "kept/token.txt", b"kept")
    with clearml_server.client() as client:
        token = client.call("auth.login")["token"]
    response = requests.get(
        clearml_server.files_url + "/kept/token.txt",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )
    assert response.content == b"kept"


@pytest.mark.parametrize(
    "path",
    [
        "/../credentials.json",
        "/%2e%2e/credentials.json",
        "/..%2fcredentials.json",
        "/a/../../credentials.json",
        "/a/%2e%2e/%2e%2e/credentials.json",
        "//etc/passwd",
        "/..\\credentials.json",
        "/%00",
        "/a//b",
        "/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_no_path_leads_out(clearml_server: RunningServer, method: str, path: str) -> None:
    assert raw_request(clearml_server, method, path) in (400, 404)
    assert (clearml_server.data_dir / "credentials.json").exists()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a/./b", "..", "", "a//b", "x" * 5000])
def test_no_upload_leads_out(clearml_server: RunningServer, name: str) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"; filename="f"\r\n'
        b"\r\nevil\r\n--b--\r\n"
    )
    response = requests.post(
        clearml_server.files_url,
        data=body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        auth=(clearml_server.access_key, clearml_server.secret_key),
        timeout=10,
    )
    assert response.status_code == 400
    assert not list(clearml_server.data_dir.parent.rglob("evil"))


def test_symbolic_link_is_not_followed_out(
    clearml_server: RunningServer, auth: tuple[str, str]
) -> None:
    link = clearml_server.data_dir / "files" / "link"
    link.symlink_to(clearml_server.data_dir)
    url = clearml_server.files_url + "/link/credentials.json"
    assert requests.get(url, auth=auth, timeout=10).status_code == 400
    assert upload(clearml_server, "link/new", b"x").status_code == 400
    link.unlink()


def test_file_and_folder_do_not_replace_each_other(clearml_server: RunningServer) -> None:
    assert upload(clearml_server, "clash/one", b"1").status_code == 200
    assert upload(clearml_server, "clash", b"2").status_code == 400
    assert upload(clearml_server, "clash/one/two", b"3").status_code == 400
    assert (clearml_server.data_dir / "files" / "clash" / "one").read_bytes() == b"1"


def test_upload_that_is_cut_off_leaves_nothing(clearml_server: RunningServer) -> None:
    address = urlsplit(clearml_server.files_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    key = b64encode(f"{clearml_server.access_key}:{clearml_server.secret_key}".encode()).decode()
    connection.putrequest("POST", "/")
    connection.putheader("Authorization", f"Basic {key}")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(b'--b\r\nContent-Disposition: form-data; name="cut/off"\r\n\r\n' + b"x" * 9999)
    connection.close()
    incoming = clearml_server.data_dir / "incoming"
    done = threading.Event()
    for _ in range(100):
        if not list(incoming.iterdir()):
            break
        done.wait(0.05)
    assert not list(incoming.iterdir())
    assert not (clearml_server.data_dir / "files" / "cut").exists()

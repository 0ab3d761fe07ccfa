"""Real servers on loopback: S3, web servers with ranges and without, one with TLS, and nginx."""

import datetime
import functools
import http.server
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root "{root}"; }}
}}
"""


def s3_environment(address: str) -> dict[str, str]:
    """What makes a process find the S3 server at `address`."""
    return {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def s3_server(folder: Path, bucket: str = "videos", prefix: str = "tiny", host: str = "127.0.0.1") -> Iterator[str]:
    """An S3 server that holds the files of `folder` in s3://bucket/prefix; gives its "host:port"."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=host, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket=bucket)
    for path in sorted(folder.glob("*.*")):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())
    yield f"{host}:{port}"
    server.stop()


@contextmanager
def s3_at(address: str) -> Iterator[None]:
    """This process, and the loader workers it starts, use the S3 server at `address`."""
    from nlnet.data.shards import storage

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(address).items():
            patch.setenv(name, value)
        storage._store.cache_clear()
        yield
    storage._store.cache_clear()


@contextmanager
def nginx_server(root: Path, folder: Path) -> Iterator[str]:
    """nginx, with its own files in `folder`; gives its "host:port". The test fails where nginx is not installed."""
    if NGINX is None:
        pytest.fail("nginx is not installed (Debian: nginx-light); `make test` leaves out the tests that need it")
    port = free_port()
    (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder, port=port, root=root))
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf"), *user]
    with server_process(command, port) as address:
        yield address


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server_process(command: list[str], port: int) -> Iterator[str]:
    """A program that listens on the port; gives its "host:port" once it does."""
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


class _Silent(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Ranged(_Silent):
    """One range of bytes a request, as object storage and web servers have it (RFC 9110, section 14)."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            super().do_GET()
            return
        size = path.stat().st_size
        begin, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
        if begin >= end:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(begin)
            self.wfile.write(file.read(end - begin))


@contextmanager
def range_server(root: Path) -> Iterator[str]:
    """A web server that answers a request for a range with that range; gives its "host:port"."""
    with _serve(_Ranged, root) as address:
        yield address


@contextmanager
def plain_server(root: Path, certificate: Path | None = None) -> Iterator[str]:
    """Python's own web server, which answers every request for a range with the whole file; https with a certificate
    and its key in one file."""
    with _serve(_Silent, root, certificate) as address:
        yield address


@contextmanager
def _serve(handler: type[_Silent], root: Path, certificate: Path | None = None) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(root)))
    server.daemon_threads = True
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def write_certificates(folder: Path) -> tuple[Path, Path]:
    """An authority's certificate, and one that it has signed for localhost, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "localhost")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    files = folder / "authority.pem", folder / "localhost.pem"
    for name, key, file in zip(names, keys, files, strict=True):
        builder = x509.CertificateBuilder().issuer_name(names[0]).subject_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        builder = builder.add_extension(x509.BasicConstraints(ca=name is names[0], path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        text = builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        formats = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        file.write_bytes(text + (b"" if name is names[0] else key.private_bytes(serialization.Encoding.PEM, *formats)))
    return files

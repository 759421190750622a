"""Certificates by the openssl command, and a client that asks as kube-apiserver does."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from pathlib import Path
from typing import Any


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
    openssl(folder, "req", "-x509", *key, "-out", f"{name}.crt", "-subj", f"/CN={name}", "-days", "2")


def client_of(folder: Path, name: str, ca: str, common_name: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
    openssl(folder, "req", *key, "-out", f"{name}.csr", "-subj", f"/CN={common_name}")
    sign = ("-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.crt")


def get(
    folder: Path, port: int, path: str, *, who: str | None = "proxy", user: str | None = "hpa", accept: str = "*/*",
    raw: bool = False,
) -> tuple[int, Any]:  # fmt: skip
    context = ssl.create_default_context(cafile=str(folder / "server.crt"))
    context.check_hostname = False
    if who:
        context.load_cert_chain(folder / f"{who}.crt", folder / f"{who}.key")
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    try:
        connection.request("GET", path, headers={"Accept": accept, **({"X-Remote-User": user} if user else {})})
        answer = connection.getresponse()
        text = answer.read().decode()
        if raw:
            return answer.status, text
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(text)
    finally:
        connection.close()

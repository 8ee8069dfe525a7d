"""Certificates that are made here: an authority, and what it signs for a server."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)


def make(folder: Path, *, owner: tuple[int, int] | None = None) -> tuple[Path, Path]:
    """Make an authority and a server's certificate for 127.0.0.1: `ca.crt`, `server.crt` and `server.key`, which is its
    owner's alone. Returns the authority's, and one of an authority that has signed nothing, `other.crt`."""
    key, ca_key, other_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca = _signed("authority", ca_key, ca_key, "authority", is_ca=True)
    other = _signed("another authority", other_key, other_key, "another authority", is_ca=True)
    server = _signed("server", key, ca_key, "authority", is_ca=False)
    for name, certificate in (("ca", ca), ("other", other), ("server", server)):
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = folder / "server.key"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    if owner is not None:
        os.chown(private, *owner)
    return folder / "ca.crt", folder / "other.crt"


def _signed(name: str, key: Any, signer: Any, issuer: str, *, is_ca: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if not is_ca:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

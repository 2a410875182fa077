"""Authorities and certificates of tests, as PEM files."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates.

    Attributes:
        certificate: Its own.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._key, self._subject = folder, ec.generate_private_key(ec.SECP256R1()), _name(name)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(self._subject, self._subject, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        self.certificate = _write(folder / f"{name}.pem", builder.sign(self._key, hashes.SHA256()))

    def server(
        self,
        name: str = "server",
        *,
        hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
        until: dt.datetime | None = None,
    ) -> Pair:
        """A certificate for a server at these hosts; for a day if `until` is not given."""
        return self._issue(name, _name(name), [_host(host) for host in hosts], until)

    def client(self, name: str, *, spiffe: str | None = None, unit: str | None = None) -> Pair:
        """A certificate for a caller: `CN=<name>`, with a SPIFFE id if there is one."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe)] if spiffe else []
        return self._issue(name, _name(name, unit), names)

    def _issue(
        self, name: str, subject: x509.Name, names: list[x509.GeneralName], until: dt.datetime | None = None
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(subject, self._subject, key.public_key(), until).add_extension(
            x509.ExtendedKeyUsage(usages), critical=False
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = _write(self._folder / f"{name}.pem", builder.sign(self._key, hashes.SHA256()))
        return Pair(certificate=certificate, key=write_key(self._folder / f"{name}.key", key))


def credentials_of(authority: Path, pair: Pair | None = None) -> grpc.ChannelCredentials:
    """What a client needs that trusts an authority, and has a certificate perhaps."""
    return grpc.ssl_channel_credentials(
        authority.read_bytes(),
        pair.key.read_bytes() if pair else None,
        pair.certificate.read_bytes() if pair else None,
    )


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, *, passphrase: bytes | None = None) -> Path:
    """A private key as a file."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: dt.datetime | None = None
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    until = until or now + _DAY
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - _DAY)
        .not_valid_after(until)
    )


def _name(common_name: str, unit: str | None = None) -> x509.Name:
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)] if unit else []
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, certificate: x509.Certificate) -> Path:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path

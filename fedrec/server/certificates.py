"""Make the server's TLS certificates, with an authority where the operator has none, and check given ones."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrec._internal.files import write_secret
from fedrec.errors import ConfigError
from fedrec.protocol.tls import Certificates

AUTHORITY_YEARS = 10
SERVER_DAYS = 825
_BACKDATED = timedelta(hours=1)
"""A merchant's clock may be behind by that much."""
_HANDSHAKE_FLIGHTS = 6
"""More round trips than any TLS handshake takes."""


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def make_authority(*, certificate: Path, key: Path) -> None:
    """Make a certificate authority (P-384, self-signed).

    Args:
        certificate: file to write the certificate to, PEM.
        key: file to write the private key to, PEM, mode 0600.
    """
    private = ec.generate_private_key(ec.SECP384R1())
    now = datetime.now(UTC)
    name = _name("fedrec authority")
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=365 * AUTHORITY_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA384())
    )
    write_secret(key, _pem(private))
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))


def make_server_certificate(
    *, hosts: tuple[str, ...], authority: Path, authority_key: Path, certificate: Path, key: Path
) -> None:
    """Make the server's certificate and private key (P-384).

    Args:
        hosts: names and addresses that the certificate is valid for; those of loopback are added.
        authority: the authority's certificate, a PEM file.
        authority_key: the authority's private key, a PEM file.
        certificate: file to write the certificate to, PEM.
        key: file to write the private key to, PEM, mode 0600.

    Raises:
        ValueError: the authority's key isn't an elliptic-curve key.
    """
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key isn't an elliptic-curve key")
    private = ec.generate_private_key(ec.SECP384R1())
    now = datetime.now(UTC)
    names = dict.fromkeys((*hosts, "localhost", "127.0.0.1", "::1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(_name(hosts[0]))
        .issuer_name(issuer.subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=SERVER_DAYS))
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(signer, hashes.SHA384())
    )
    write_secret(key, _pem(private))
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))


def check_certificates(given: Certificates, *, host: str) -> None:
    """Check that a merchant that trusts the authority would accept this server.

    A merchant's TLS handshake is carried out in memory.

    Args:
        given: the server's certificate and key, and the authority's certificate.
        host: name or address at which merchants reach the server.

    Raises:
        ConfigError: the files can't be used together, or the handshake fails.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(given.certificate, given.key)
        merchant = ssl.create_default_context(cafile=str(given.authority))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--certificate {given.certificate}, --key {given.key} and --authority {given.authority} "
            f"can't be used together: {error}"
        ) from None
    to_server, to_merchant = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        merchant.wrap_bio(to_merchant, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_merchant, server_side=True),
    )
    for _ in range(_HANDSHAKE_FLIGHTS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                told = getattr(error, "verify_message", "") or error.reason or str(error)
                raise ConfigError(
                    f"no merchant would accept {given.certificate} at '{host}': {told}"
                ) from None


def renew_server_certificate(home: Certificates, *, authority_key: Path, host: str) -> None:
    """Make a new server certificate and key, and replace the old ones; each file is replaced atomically.

    Args:
        home: the files to replace, and the authority's certificate.
        authority_key: the authority's private key, a PEM file.
        host: name or address at which merchants reach the server.

    Raises:
        ConfigError: there is no key of the authority: the operator brought certificates of their own.
    """
    if not authority_key.is_file():
        raise ConfigError(
            f"{authority_key} isn't there: the authority isn't this server's own; put the new certificate "
            "and key into the folder yourself"
        )
    with tempfile.TemporaryDirectory(dir=home.key.parent, prefix=".renewed-") as scratch:
        made = Certificates(
            authority=home.authority,
            certificate=Path(scratch) / "server.pem",
            key=Path(scratch) / "server.key",
        )
        make_server_certificate(
            hosts=(host,),
            authority=home.authority,
            authority_key=authority_key,
            certificate=made.certificate,
            key=made.key,
        )
        check_certificates(made, host=host)
        made.key.replace(home.key)
        made.certificate.replace(home.certificate)


def make_server_certificates(folder: Path, *, hosts: tuple[str, ...]) -> Certificates:
    """Make an authority, and a server certificate that it signs, as new files in a folder.

    Args:
        folder: where the files are written.
        hosts: names and addresses that the certificate is valid for.

    Returns:
        The paths of the files.
    """
    authority, authority_key = folder / "authority.pem", folder / "authority.key"
    made = Certificates(authority=authority, certificate=folder / "server.pem", key=folder / "server.key")
    make_authority(certificate=authority, key=authority_key)
    make_server_certificate(
        hosts=hosts,
        authority=authority,
        authority_key=authority_key,
        certificate=made.certificate,
        key=made.key,
    )
    return made


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )

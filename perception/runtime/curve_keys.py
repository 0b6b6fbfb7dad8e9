"""CURVE keys of a graph's publisher and of the clients that may read it.

    FOLDER/publisher.key, publisher.key_secret      the publisher's pair; the secret stays here
    FOLDER/clients/NAME.key                         who may connect; removing a file locks that client out
    FOLDER/for_clients/NAME/                        what NAME needs, to be moved to its machine:
                                                    publisher.key, NAME.key, NAME.key_secret

The files are ZeroMQ certificates, which any binding reads.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import zmq.auth

from perception.errors import UserError

PUBLISHER = "publisher"
MAX_NAME = 64


@dataclass(frozen=True)
class PublisherKeys:
    """What a publisher needs."""

    public: bytes
    secret: bytes
    clients: Path
    """Folder of the allowed clients' public keys."""


@dataclass(frozen=True)
class ClientKeys:
    """What a client needs."""

    public: bytes
    secret: bytes
    publisher: bytes


def new_keys(folder: Path, client: str) -> Path:
    """Make keys for a client, and the publisher's where there are none; return the client's folder.

    Raises:
        UserError: the name cannot be one, or the client has keys already, or the folder cannot be written.
    """
    if not client or len(client) > MAX_NAME or not all(letter.isalnum() or letter in "-_" for letter in client):
        raise UserError(f"'{client}' is no name for a client; expected up to {MAX_NAME} letters, digits, - and _")
    if client == PUBLISHER:
        raise UserError(f"'{PUBLISHER}' is the name of the publisher's own keys; give the client another")
    allowed, handed_out = folder / "clients", folder / "for_clients" / client
    if (allowed / f"{client}.key").exists() or handed_out.exists():
        raise UserError(f"{folder} has keys for '{client}' already; remove clients/{client}.key to lock it out first")
    try:
        handed_out.mkdir(parents=True)
        allowed.mkdir(exist_ok=True)
        if not (folder / f"{PUBLISHER}.key_secret").exists():
            _make(folder, PUBLISHER)
        _make(handed_out, client)
        shutil.copy(handed_out / f"{client}.key", allowed)
        shutil.copy(folder / f"{PUBLISHER}.key", handed_out)
    except OSError as error:
        raise UserError(f"keys cannot be written to {folder}: {error.strerror}") from None
    return handed_out


def _make(folder: Path, name: str) -> None:
    _, secret = zmq.auth.create_certificates(folder, name)
    Path(secret).chmod(0o600)


def publisher_keys(folder: Path) -> PublisherKeys:
    """Read a publisher's keys.

    Raises:
        UserError: the folder holds none, or allows no client.
    """
    public, secret = _read(folder / f"{PUBLISHER}.key_secret", "perception keys new FOLDER makes them")
    clients = folder / "clients"
    if not any(clients.glob("*.key")):
        raise UserError(f"{clients} allows no client; perception keys new {folder} --client NAME adds one")
    return PublisherKeys(public, secret, clients)


def client_keys(folder: Path) -> ClientKeys:
    """Read a client's keys from the folder that `perception keys new` made for it.

    Raises:
        UserError: the folder does not hold the client's secret and the publisher's public key.
    """
    secrets = [file for file in sorted(folder.glob("*.key_secret")) if file.stem != PUBLISHER]
    advice = "expected the folder for_clients/NAME that perception keys new made"
    if len(secrets) != 1:
        raise UserError(f"{folder} holds {len(secrets)} secret keys of a client; {advice}")
    public, secret = _read(secrets[0], advice)
    return ClientKeys(public, secret, _certificate(folder / f"{PUBLISHER}.key", advice)[0])


def _read(file: Path, advice: str) -> tuple[bytes, bytes]:
    public, secret = _certificate(file, advice)
    if secret is None:
        raise UserError(f"{file} holds no secret key; {advice}")
    return public, secret


def _certificate(file: Path, advice: str) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a CURVE key ({error}); {advice}") from None


__all__ = ["ClientKeys", "PublisherKeys", "client_keys", "new_keys", "publisher_keys"]

"""What sends requests to an S3 store: credentials of the environment, patience, and errors that say what to do."""

from __future__ import annotations

import contextlib
import os
import re
import time
from datetime import timedelta
from functools import lru_cache
from platform import node
from typing import TYPE_CHECKING

from microseg_ray.errors import ObjectStoreError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from obstore.store import ClientConfig, RetryConfig, S3Store

__all__ = [
    "SCHEME",
    "client_of",
    "client_options",
    "delete_surely",
    "endpoint",
    "failure",
    "reaching",
    "require_credentials",
    "retries",
    "shared_environment",
]

SCHEME = "s3://"
_TRIES = 10
_FIRST_PAUSE, _LONGEST_PAUSE, _PATIENCE = timedelta(milliseconds=100), timedelta(seconds=5), timedelta(seconds=90)
_ANSWER = timedelta(seconds=20)
"""Time for one request; a stall longer than this is given up and tried again."""
_IDENTITY = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_SHARED = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SKIP_SIGNATURE", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@lru_cache(maxsize=16)
def client_of(bucket: str, _environment: Sequence[tuple[str, str]]) -> S3Store:
    """Made anew where the environment is another one."""
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise StoreError(
            f"{SCHEME}{bucket}: object stores need the package obstore; install 'microseg_ray[objects]'"
        ) from error
    require_credentials(f"{SCHEME}{bucket}")
    return S3Store(bucket, client_options=client_options(), retry_config=retries())


def require_credentials(where: str) -> None:
    """Refuse to ask the metadata service of an Amazon machine, for minutes, where the store is not Amazon's.

    Args:
        where: The address, for the message.

    Raises:
        ObjectStoreError: The environment names a store and has no credentials for it.
    """
    anonymous = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in {"1", "true", "yes", "y", "on"}
    own = any(os.environ.get(name) for name in _ENDPOINTS)
    if own and not anonymous and not any(os.environ.get(name) for name in _IDENTITY):
        raise ObjectStoreError(
            f"{where}: the environment of this process on the node {node()} has no credentials for the store that "
            "AWS_ENDPOINT_URL names; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on all nodes before Ray starts there, or "
            "AWS_SKIP_SIGNATURE=true to read without"
        )


def shared_environment() -> dict[str, str]:
    """What processes on other nodes are told of the store: everything but credentials.

    Example:
        >>> all("KEY" not in name for name in shared_environment())
        True
    """
    found = {name: os.environ[name] for name in (*_ENDPOINTS, *_SHARED) if os.environ.get(name)}
    return {name: value for name, value in found.items() if "@" not in value}


def client_options() -> ClientConfig:
    """How long a request may take, and whether it may go unencrypted: where the endpoint that the user gave begins with http://.

    Example:
        >>> sorted(client_options())
        ['allow_http', 'connect_timeout', 'timeout']
    """
    return {
        "allow_http": endpoint().lower().startswith("http://"),
        "timeout": _ANSWER,
        "connect_timeout": timedelta(seconds=5),
    }


def endpoint() -> str:
    """The address of a store that is not Amazon's, or nothing.

    Example:
        >>> isinstance(endpoint(), str)
        True
    """
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")


def retries() -> RetryConfig:
    """How often and how long a request is tried.

    Example:
        >>> retries()["max_retries"]
        10
    """
    return {
        "max_retries": _TRIES,
        "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE, "base": 2},
        "retry_timeout": _PATIENCE,
    }


def delete_surely(delete: Callable[[], object]) -> None:
    """Call a deletion until it is done, as often as `retries` says.

    The client deletes by a POST, which it does not send again after a reset. To delete twice is the same as once.

    Args:
        delete: Deletes; an error of the client is tried again.
    """
    from obstore.exceptions import GenericError

    pause, until = _FIRST_PAUSE, time.monotonic() + _PATIENCE.total_seconds()
    for _ in range(_TRIES):
        try:
            delete()
        except GenericError:
            # What the client tried again itself has taken its time.
            if time.monotonic() > until:
                raise
            time.sleep(pause.total_seconds())
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return
    delete()


@contextlib.contextmanager
def reaching(path: object, *, writing: bool = False) -> Iterator[None]:
    """Give errors of the client a place and advice.

    Args:
        path: The object, for the message.
        writing: The object need not be there: what is missing is the bucket.

    Raises:
        ObjectStoreError: The store cannot be reached, refuses, or has no such bucket.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not writing:
            raise FileNotFoundError(str(path)) from None
        raise ObjectStoreError(
            f"{path}: there is no such bucket; make it, or correct the address or AWS_ENDPOINT_URL"
        ) from error
    except Exception as error:
        from obstore.exceptions import BaseError

        if not isinstance(error, BaseError):
            raise
        raise failure(path, error) from None


def failure(path: object, error: Exception) -> ObjectStoreError:
    """The error of a request that was given up, with the reason of the client and advice.

    Example:
        >>> str(failure("s3://bucket/a", OSError("no route")))[:61]
        's3://bucket/a: the object store did not do what was asked (no'
    """
    # The lines after the first repeat it in the words of the library.
    said = str(error).split("\n\nDebug source", 1)[0]
    code = re.search(r"<Code>(\w+)</Code>", said)
    head = said.splitlines()[0].split(": <", 1)[0][:300] if said else type(error).__name__
    reason = f"{head}{f' ({code[1]})' if code else ''}"
    return ObjectStoreError(
        f"{path}: the object store did not do what was asked ({reason}); check the address, the network, and "
        "AWS_ENDPOINT_URL, AWS_REGION and the credentials in the environment"
    )

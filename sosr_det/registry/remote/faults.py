"""What can go wrong with a store far away: told apart, retried where that helps, and said clearly."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sosr_det.errors import RegistryError, SosrError
from sosr_det.registry.damage import Damage
from sosr_det.registry.files import logger
from sosr_det.registry.remote.urls import PACKAGES, RemoteUrl

T = TypeVar("T")

DELAYS = (
    0.3,
    1.0,
    3.0,
)  # seconds before the second, third and last attempt; each is varied by half of itself

_CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL where the store is "
    "not Amazon's)",
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_BAD_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
    "AuthenticationFailed",
}
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_LOST_RACE = {"PreconditionFailed", "ConditionalRequestConflict", "ConditionNotMet", "BlobAlreadyExists"}
# Roots of the packages whose errors come from the store; anything else that is no OSError is a bug and passes through.
_FOREIGN = {
    "botocore",
    "aiobotocore",
    "boto3",
    "aiohttp",
    "gcsfs",
    "google",
    "azure",
    "fsspec",
    "paramiko",
    "requests",
    "urllib3",
    "httpx",
    "httpx2",
    "httpcore",
    "huggingface_hub",
}


# Protocols whose errors are known: any other exception there is a bug of ours.
_KNOWN = {*PACKAGES, "memory"}


class RemoteError(RegistryError):
    """A store far away did not do what was asked. ``kind``: "network", "busy", "denied", "credentials", "bucket", …"""

    kind = "other"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _http(error: BaseException) -> tuple[int | None, str]:
    """The HTTP status and the store's error code behind an exception, where there are any."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):  # botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status, str(response.get("Error", {}).get("Code", ""))
        for name in ("status", "status_code", "code"):  # aiohttp; azure; gcsfs
            value = getattr(link, name, None)
            if not isinstance(link, OSError) or link.__class__.__module__.partition(".")[0] in _FOREIGN:
                if isinstance(value, int) and 100 <= value < 600:
                    return value, str(getattr(link, "error_code", "") or "")
                if isinstance(value, str) and value.isdigit():
                    return int(value), ""
    return None, ""


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind an exception, where there is one."""
    return _http(error)[0]


def classify(error: BaseException) -> str | None:
    """Which kind of trouble an exception is, or None when it does not come from the store.

    "absent" (no such object), "exists" (a condition was not met), "bucket", "credentials", "denied", "network",
    "busy" (5xx, throttling), "damaged" (not what the store's own checksum says), "unsupported" (the store does not know
    the operation) or "other".
    """
    foreign = any(type(link).__module__.partition(".")[0] in _FOREIGN for link in _chain(error))
    if not isinstance(error, OSError) and not foreign:
        return None
    status, code = _http(error)
    names = {cls.__name__ for cls in type(error).__mro__}
    if code in _NO_BUCKET:
        return "bucket"
    if code in _BAD_CREDENTIALS or any("Credential" in name or "Token" in name for name in names):
        return "credentials"
    if isinstance(error, FileExistsError) or status == 412 or code in _LOST_RACE:
        return "exists"
    if isinstance(error, FileNotFoundError) or status == 404:
        # fsspec's web reader says "no such file" for whatever went wrong; what it was is behind it.
        cause = classify(error.__cause__) if isinstance(error.__cause__, Exception) else None
        return cause if cause in ("network", "busy", "denied", "credentials") else "absent"
    if status == 401:
        return "credentials"
    if isinstance(error, PermissionError) or status == 403:
        return "denied"
    if status == 501 or code == "NotImplemented":
        return "unsupported"
    if (status is not None and status >= 500) or status in (408, 409, 429):
        return "busy"
    if any("Checksum" in name for name in names):
        return "damaged"
    if isinstance(error, (TimeoutError, ConnectionError)) or names & {
        "HTTPClientError",
        "EndpointConnectionError",
        "ClientConnectionError",
        "ClientPayloadError",
        "gaierror",
        "SSHException",
        "ServiceRequestError",
        "FSTimeoutError",
        "IncompleteRead",
        "TransportError",  # httpx, which names no OSError
    }:
        return "network"
    if isinstance(error, OSError) and error.errno in (
        errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EIO,
        errno.EBUSY,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
    ):
        return "busy" if error.errno == errno.EBUSY else "network"
    return "other"


def attempt(url: RemoteUrl, key: str, action: str, work: Callable[[], T]) -> T:
    """Run ``work`` (one request to the store), again a few times where the trouble may pass.

    Raises:
        FileNotFoundError: there is no such object.
        FileExistsError: the store refused because a condition (put if absent, If-Match) was not met.
        CorruptEntryError: what came does not fit the store's own checksum, each time.
        RemoteError: anything else; the URL, what was refused and what to do are named.
    """
    for left in range(len(DELAYS), -1, -1):
        try:
            return work()
        except SosrError:
            raise
        except Exception as error:
            kind = classify(error)
            if kind is None:
                if url.protocol in _KNOWN or isinstance(error, (ImportError, ValueError)):
                    raise
                kind = "other"  # a protocol of others, whose errors nobody here has seen
            if kind == "absent":
                raise FileNotFoundError(errno.ENOENT, "no such object", url.of(key)) from error
            if kind == "exists":
                raise FileExistsError(errno.EEXIST, "not as expected", url.of(key)) from error
            if kind == "damaged" and not left:
                raise Damage(
                    url.of(key), "content", "what the store's checksum says", _text(error)
                ).error() from error
            if kind not in ("network", "busy", "damaged") or not left:
                raise remote_error(url, key, action, kind, error) from error
            logger.info("%s %s: %s; trying again", action, url.of(key), _text(error))
        delay = DELAYS[len(DELAYS) - left]
        time.sleep(delay * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _text(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = (lines[0] if lines else type(error).__name__)[:300]
    return "".join(char if char.isprintable() else "?" for char in shown)


def remote_error(url: RemoteUrl, key: str, action: str, kind: str, error: BaseException) -> RemoteError:
    """The error that the user sees for one kind of trouble."""
    status, _ = _http(error)
    http = f" (HTTP {status})" if status else ""
    hint = _CREDENTIALS.get(_SAME.get(url.protocol, url.protocol), "check the store's credentials")
    attempts = len(DELAYS) + 1
    what = {
        "bucket": f"there is no such bucket{http}. Check the URL, or create the bucket first: a registry never does",
        "credentials": f"the store knows no valid credentials of yours{http}: {_text(error)}. To give some, {hint}",
        "denied": f"access denied{http}: {_text(error)}. The credentials in use need permission to read and to "
        f"list there, and to write for publishing, or they are no valid ones; for others, {hint}",
        "network": f"the store cannot be reached after {attempts} attempts: {_text(error)}. "
        "Check the network, the proxy and the endpoint",
        "busy": f"the store failed{http} {attempts} times: {_text(error)}. Try again later",
        "unsupported": f"the store does not support this{http}: {_text(error)}",
    }.get(kind, f"{type(error).__name__}{http}: {_text(error)}. Check the URL and the store")
    made = RemoteError(f"cannot {action} {url.of(key) if key else url}: {what}.")
    made.kind = kind
    return made


def offline_error(message: str) -> RemoteError:
    """The error for what needs a network that may not be used."""
    made = RemoteError(message)
    made.kind = "offline"
    return made


def kind_of(error: BaseException) -> Any:
    """The kind of a :class:`RemoteError`, else None."""
    return getattr(error, "kind", None) if isinstance(error, RemoteError) else None

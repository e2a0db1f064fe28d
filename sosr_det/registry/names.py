"""Names, tags and ``sosr://`` URIs: what they may look like, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sosr_det.errors import RegistryError

SCHEME = "sosr://"
DEFAULT_TAG = "latest"
MAX_LENGTH = 128

_DIGEST_PREFIX = "sha256"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HEX = re.compile(r"[0-9a-f]{64}")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_FORMS = (
    "expected sosr://NAME, sosr://NAME@TAG or sosr://sha256:HEX with 64 hex digits, "
    "for example sosr://resnet50-in1k-sosr or sosr://resnet50-in1k-sosr@v1"
)


@dataclass(frozen=True)
class SosrUri:
    """A parsed URI: either ``name`` and ``tag``, or ``digest`` (64 hex digits), never both."""

    name: str | None = None
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        if self.digest is not None:
            return f"{SCHEME}sha256:{self.digest}"
        return f"{SCHEME}{self.name}@{self.tag}"


def check_name(name: object) -> str:
    """Return ``name`` if it can name a registry entry.

    Raises:
        RegistryError: see :func:`_check`; the message shows what is allowed.
    """
    return _check(name, "name", "resnet50-in1k-sosr")


def check_tag(tag: object) -> str:
    """Return ``tag`` if it can tag an entry. Raises :class:`RegistryError` as :func:`check_name`."""
    return _check(tag, "tag", "latest or v1.0")


def _check(word: object, kind: str, example: str) -> str:
    """Names become folder and file names, so they must be safe on every file system.

    Raises:
        RegistryError: not text; empty; longer than MAX_LENGTH; a character outside A-Z a-z 0-9 . _ -;
            not starting with a letter or digit; '..' inside or '.' at the end; a device name of
            Windows (CON, NUL...); or starting with 'sha256', which is how digests start.
    """
    rule = f"expected letters, digits, '.', '_' or '-', starting with a letter or digit, e.g. {example}"
    if not isinstance(word, str) or not word:
        problem = "it is empty" if word == "" else f"it is a {type(word).__name__}, not text"
    elif len(word) > MAX_LENGTH:
        problem = f"it has {len(word)} characters, at most {MAX_LENGTH} are allowed"
        word = word[:40] + "..."
    elif _WORD.fullmatch(word) is None:
        problem = "it has a character that is not allowed there"
    elif ".." in word or word.endswith("."):
        problem = "it holds '..' or ends with '.'"
    elif _WINDOWS_DEVICE.fullmatch(word):
        problem = "it is a reserved device name on Windows"
    elif word.lower().startswith(_DIGEST_PREFIX):
        problem = f"it starts with '{_DIGEST_PREFIX}', which is kept for digests"
    else:
        return word
    raise RegistryError(f"{word!r} cannot be a registry {kind}: {problem}; {rule}.")


def parse_uri(uri: object) -> SosrUri:
    """Parse ``sosr://NAME``, ``sosr://NAME@TAG`` or ``sosr://sha256:HEX``.

    The tag is ``latest`` when none is given; hex digits may be upper case.

    Raises:
        RegistryError: another form, a digest that is not 64 hex digits, or a name or tag that is not
            allowed.
    """
    if not isinstance(uri, str) or not uri.startswith(SCHEME):
        raise RegistryError(f"{uri!r} is not a registry URI: {_FORMS}.")
    body = uri[len(SCHEME) :]
    prefix, colon, digest = body.partition(":")
    if colon and prefix.lower() == _DIGEST_PREFIX:
        if _HEX.fullmatch(digest.lower()) is None:
            raise RegistryError(
                f"{uri!r} does not hold a full digest (64 hex digits, found {len(digest)} characters): {_FORMS}. "
                "`sosr-det registry resolve sosr://NAME` prints it."
            )
        return SosrUri(digest=digest.lower())
    name, at, tag = body.partition("@")
    if at and not tag:
        raise RegistryError(f"{uri!r} has '@' but no tag: {_FORMS}.")
    return SosrUri(name=check_name(name), tag=check_tag(tag) if at else DEFAULT_TAG)


def publishable_name(name: str) -> SosrUri:
    """Parse ``NAME[@TAG]``.

    Raises:
        RegistryError: not a valid name, or a digest, which nothing can be published under.
    """
    wanted = parse_uri(f"sosr://{name.removeprefix('sosr://')}")
    if wanted.name is None:
        raise RegistryError(f"{name!r} is a digest; publish under a name, for example resnet50-in1k-sosr@v1.")
    return wanted

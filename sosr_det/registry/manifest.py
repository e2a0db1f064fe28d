"""The manifest: everything about an entry that its weights cannot say themselves, as immutable JSON.

A manifest's own digest is the SHA-256 of its exact bytes, which are canonical (sorted keys, no spaces,
ASCII, one newline at the end): the same content is the same file. Importing this does not import torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sosr_det.errors import RegistryError
from sosr_det.registry.blob import blob_layout
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import (
    DTYPES,
    TensorSpec,
    canonical_json,
    check_tensor_name,
    digest_of_specs,
    is_sha256,
    sha256_hex,
)
from sosr_det.registry.strict_json import (
    Fields,
    dict_of,
    integer,
    list_of,
    number,
    one_of,
    parse_json,
    plain,
    text,
    word,
)

SCHEMA_VERSION = 2
_READABLE = (1, 2)  # schema 1 had neither `kind` nor `probe`
KINDS = ("backbone", "detector")
SIZE_LIMIT = 16 * 1024 * 1024  # bytes

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_DEFAULTS: dict[str, Any] = {
    "kind": "backbone",
    "probe": None,
    "classes": (),
    "metrics": {},
    "recipe": None,
    "parents": (),
    "seed": None,
    "git_commit": None,
    "data": None,
    "license": None,
    "notes": "",
}
# The metrics that lists show and sort by; a manifest may hold any.
SUMMARY_METRICS = ("top1", "top5", "ece", "map_11point", "map_area", "ap50", "map")
_COMPUTED = ("schema_version", "tensors", "tensors_digest", "size_bytes", "classes_sha256")
_LIBRARIES = (
    "sosr-det",
    "torch",
    "torchvision",
    "timm",
    "pytorchcv",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmdetection",
    "safetensors",
    "numpy",
    "torchmetrics",
    "opencv-python",
    "opencv-python-headless",
)


@dataclass(frozen=True)
class Arch:
    """Which network the tensors belong to.

    ``name`` as :func:`sosr_det.models.build_backbone` takes it ("resnet50", "timm/convnext_tiny"); ``library``
    whose implementation and parameter names it has ("torchvision"); ``style`` where a bottleneck has its
    stride: "pytorch" (the 3x3 conv2), "caffe" (the 1x1 conv1), or None where there is no such choice or it is
    not stated; ``stem`` in words ("7x7/2+maxpool"); ``feature_channels`` of the stages that a detector reads,
    shallow to deep ([256, 512, 1024, 2048]), empty where they are not known.
    """

    name: str
    library: str
    style: str | None
    stem: str
    feature_channels: tuple[int, ...]


@dataclass(frozen=True)
class Preprocessing:
    """How pixels must be prepared: ``(pixel - mean) / std`` with pixels in ``scale``.

    ``channel_order`` "rgb" or "bgr", or "gray"; ``mean`` and ``std`` per channel in that order; ``scale``
    "0-255" or "0-1"; ``interpolation`` of the resize ("bilinear"); ``input_size`` [height, width] in pixels.
    """

    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: str
    interpolation: str
    input_size: tuple[int, int]


@dataclass(frozen=True)
class Probe:
    """What the network computes for one fixed input: a check of everything that names and shapes cannot show.

    ``input`` names the fixed image ("sosr-probe-1", see :mod:`sosr_det.transfer.probe`); ``stages`` holds a few
    numbers per feature map, by stage ("layer1" … "layer4").
    """

    input: str
    stages: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Recipe:
    """The resolved training config: its name, full text, and the SHA-256 of that text in UTF-8."""

    config_name: str
    config_text: str
    config_digest: str


@dataclass(frozen=True)
class Parent:
    """An entry or file that this one came from.

    ``digest`` is a manifest's for an entry, the SHA-256 of the bytes for a file, None where it is not known;
    ``relation`` says how: "finetuned-from", "detector-on" (this detector stands on that backbone), "imported-from".
    """

    uri: str
    digest: str | None
    relation: str


@dataclass(frozen=True)
class Summary:
    """What a list of entries shows of one, small enough to be kept in every ref: see :meth:`Manifest.summary`.

    ``parents`` are the digests of the entries it came from, so that children are found without reading manifests.
    """

    kind: str
    arch: str
    data: str | None
    recipe: str | None
    metrics: dict[str, float]
    size_bytes: int
    num_tensors: int
    tensors_digest: str
    parents: tuple[str, ...]
    license: str | None
    created: str

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON data. Written out, because a list of entries does this once for each."""
        return vars(self) | {"metrics": dict(self.metrics), "parents": list(self.parents)}

    @classmethod
    def from_dict(cls, document: Any, label: str = "summary") -> Summary:
        """Check plain JSON data strictly. Raises :class:`RegistryError` naming the field that is wrong."""
        fields = Fields(document, "summary", label)
        summary = cls(
            kind=fields.take("kind", one_of(*KINDS), " or ".join(map(repr, KINDS))),
            arch=fields.take("arch", word, "an architecture"),
            data=fields.maybe("data", word, "a data set's name"),
            recipe=fields.maybe("recipe", word, "a config's name"),
            metrics=fields.take("metrics", dict_of(number), "an object of finite numbers"),
            size_bytes=fields.take("size_bytes", integer(0), "a number of bytes"),
            num_tensors=fields.take("num_tensors", integer(0), "a number of tensors"),
            tensors_digest=fields.take("tensors_digest", _sha256, "64 hex digits"),
            parents=fields.take("parents", list_of(_sha256), "a list of digests"),
            license=fields.maybe("license", word, "an SPDX license id"),
            created=fields.take("created", _time, "a UTC time"),
        )
        fields.close()
        return summary


@dataclass(frozen=True)
class Manifest:
    """Everything known about one registry entry. Build with :meth:`build`, read with :meth:`from_bytes`.

    ``tensors_digest``: see :func:`sosr_det.registry.digest.tensors_digest`; ``size_bytes`` of the blob;
    ``kind`` "backbone", or "detector" for a whole detection model; ``probe`` None where it was not computed;
    ``metrics`` plain floats in the unit that their name says; ``data`` holds at least ``name`` and
    ``fingerprint`` (text or None); ``created`` UTC, "2026-11-22T17:05:00Z". None stands for "not known".
    """

    tensors_digest: str
    size_bytes: int
    tensors: dict[str, TensorSpec]
    arch: Arch
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    classes_sha256: str
    metrics: dict[str, float]
    recipe: Recipe | None
    parents: tuple[Parent, ...]
    seed: int | None
    library_versions: dict[str, str]
    git_commit: str | None
    data: dict[str, Any] | None
    license: str | None
    created: str
    notes: str
    kind: str = "backbone"
    probe: Probe | None = None
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def build(cls, tensors: Mapping[str, TensorSpec], fields: Mapping[str, Any]) -> Manifest:
        """Complete the fields that a publisher knows with those that follow from the tensors.

        ``fields`` needs ``arch`` and ``preprocessing``; it may hold every other attribute of this class
        but the computed ones (schema_version, tensors, tensors_digest, size_bytes, classes_sha256).
        Objects may be given as their dataclass or as a plain dict. ``recipe.config_digest`` is computed
        when absent, ``library_versions`` from the installed packages, ``created`` from the clock.

        Raises:
            RegistryError: a field is missing, unknown, of the wrong type or out of range; it is named.
        """
        computed = [name for name in _COMPUTED if name in fields]
        if computed:
            raise RegistryError(
                f"manifest: {', '.join(computed)} cannot be given, it is computed. Leave it out of the fields."
            )
        document = _DEFAULTS | {key: _as_plain(value) for key, value in fields.items()}
        if "library_versions" not in document:  # asking the installed packages takes a while
            document["library_versions"] = library_versions()
        document.setdefault("created", utc_now())
        recipe = document["recipe"]
        if isinstance(recipe, dict) and isinstance(recipe.get("config_text"), str):
            document["recipe"] = {"config_digest": _text_digest(recipe["config_text"])} | recipe
        document["schema_version"] = SCHEMA_VERSION
        document["tensors"] = {name: _as_plain(spec) for name, spec in tensors.items()}
        document["tensors_digest"] = digest_of_specs(tensors)
        document["size_bytes"] = blob_layout(tensors).size
        document["classes_sha256"] = _classes_digest(document["classes"])
        return cls.from_dict(document)

    @classmethod
    def from_dict(cls, document: Any) -> Manifest:
        """Check plain JSON data strictly and make a manifest of it.

        Raises:
            RegistryError: an unknown schema version; a missing, unknown, ill-typed or inconsistent field.
        """
        fields = Fields(document, "")
        version = fields.take("schema_version", integer(0), "a whole number")
        if version not in _READABLE:
            raise RegistryError(
                f"manifest: schema_version is {version}, this sosr-det reads up to {SCHEMA_VERSION}. Upgrade sosr-det."
            )
        manifest = cls(
            tensors_digest=fields.take("tensors_digest", _sha256, "64 hex digits"),
            size_bytes=fields.take("size_bytes", integer(0), "a number of bytes"),
            tensors=_read_tensors(fields.child("tensors")),
            arch=_read_arch(fields.child("arch")),
            preprocessing=_read_preprocessing(fields.child("preprocessing")),
            classes=fields.take("classes", list_of(text), "a list of class names"),
            classes_sha256=fields.take("classes_sha256", _sha256, "64 hex digits"),
            metrics=fields.take("metrics", dict_of(number), "an object of finite numbers"),
            recipe=_read_recipe(fields),
            parents=_read_parents(fields),
            seed=fields.maybe("seed", integer(-(1 << 63), (1 << 64) - 1), "a 64-bit whole number"),
            library_versions=fields.take("library_versions", dict_of(word), "an object of versions"),
            git_commit=fields.maybe("git_commit", word, "a commit id"),
            data=fields.maybe("data", _data, "an object with 'name' and 'fingerprint'"),
            license=fields.maybe("license", word, "an SPDX license id"),
            created=fields.take("created", _time, "a UTC time such as 2026-11-22T17:05:00Z"),
            notes=fields.take("notes", text, "text"),
            kind="backbone"
            if version == 1
            else fields.take("kind", one_of(*KINDS), " or ".join(map(repr, KINDS))),
            probe=None if version == 1 else _read_probe(fields),
            schema_version=version,
        )
        fields.close()
        manifest._check_consistency()
        return manifest

    @classmethod
    def from_bytes(cls, content: bytes, file: Path | str, digest: str) -> Manifest:
        """Read the content of the manifest file ``file``, which must have the SHA-256 ``digest``.

        Raises:
            CorruptEntryError: the bytes do not have that digest, or are no canonical manifest.
            RegistryError: its schema version is unknown, as after a newer sosr-det wrote it.
        """
        actual = sha256_hex(content)
        if actual != digest:
            raise Damage(str(file), "content", f"sha256 {digest}", f"sha256 {actual}").error()
        try:
            document = parse_json(content)
        except ValueError as error:
            raise Damage(str(file), "content", "a JSON document", str(error)).error() from None
        if isinstance(document, dict) and document.get("schema_version") not in _READABLE:
            cls.from_dict(document)
        try:
            manifest = cls.from_dict(document)
        except RegistryError as error:
            raise Damage(str(file), "content", "a valid manifest", str(error)).error() from error
        if manifest.to_bytes() != content:
            raise Damage(str(file), "content", "canonical JSON", "the same data written differently").error()
        return manifest

    @property
    def is_imported(self) -> bool:
        """Whether the weights came from another project's file, so that its trainer is not its publisher."""
        return any(parent.relation == "imported-from" for parent in self.parents)

    @property
    def digest(self) -> str:
        """The manifest's own digest: SHA-256 of its canonical bytes, 64 hex digits."""
        return sha256_hex(self.to_bytes())

    def to_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON data, in the schema that it was written in."""
        document = _as_plain(self)
        if self.schema_version == 1:
            del document["kind"], document["probe"]
        return document

    def summary(self) -> Summary:
        """What a list shows of this entry; of the metrics only those that it has a column or a filter for."""
        return Summary(
            kind=self.kind,
            arch=self.arch.name,
            data=self.data["name"] if self.data else None,
            recipe=self.recipe.config_name if self.recipe else None,
            metrics={name: self.metrics[name] for name in SUMMARY_METRICS if name in self.metrics},
            size_bytes=self.size_bytes,
            num_tensors=len(self.tensors),
            tensors_digest=self.tensors_digest,
            parents=tuple(p.digest for p in self.parents if p.digest and p.relation != "imported-from"),
            license=self.license,
            created=self.created,
        )

    def to_bytes(self) -> bytes:
        """The canonical bytes that are stored and hashed.

        Raises:
            RegistryError: larger than SIZE_LIMIT.
        """
        content = canonical_json(self.to_dict()) + b"\n"
        if len(content) > SIZE_LIMIT:
            raise RegistryError(
                f"manifest: {len(content)} bytes, at most {SIZE_LIMIT} are allowed. Shorten recipe, notes or data."
            )
        return content

    def _check_consistency(self) -> None:
        pairs = {
            "tensors_digest": (self.tensors_digest, digest_of_specs(self.tensors)),
            "size_bytes": (self.size_bytes, blob_layout(self.tensors).size),
            "classes_sha256": (self.classes_sha256, _classes_digest(self.classes)),
        }
        if self.recipe is not None:
            expected = _text_digest(self.recipe.config_text)
            pairs["recipe.config_digest"] = (self.recipe.config_digest, expected)
        for name, (actual, expected) in pairs.items():
            if actual != expected:
                raise RegistryError(
                    f"manifest: field {name!r} is {actual}, expected {expected} from its content."
                )
        if len(self.preprocessing.mean) != len(self.preprocessing.std):
            raise RegistryError(
                f"manifest: 'preprocessing.mean' has {len(self.preprocessing.mean)} values and "
                f"'preprocessing.std' {len(self.preprocessing.std)}, expected one each per channel."
            )


def utc_now() -> str:
    """The present time in UTC to the second: "2026-11-22T17:05:00Z"."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape weights, without importing them."""
    import platform
    from importlib import metadata

    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _as_plain(value: Any) -> Any:
    """Dataclasses become dicts and tuples become lists, at any depth."""
    if value is None or isinstance(value, (str, int, float)):  # first, because most values are
        return value
    if isinstance(value, TensorSpec):
        return {"dtype": value.dtype, "shape": list(value.shape), "sha256": value.sha256}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _as_plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {key: _as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_plain(item) for item in value]
    return value


def _text_digest(value: str) -> str:
    return sha256_hex(value.encode("utf-8", "surrogatepass"))


def _classes_digest(classes: Any) -> str:
    try:
        return sha256_hex(canonical_json(list(classes)))
    except (TypeError, ValueError):
        raise RegistryError("manifest: field 'classes' is no list of class names; expected texts.") from None


def _sha256(value: Any) -> str:
    if not is_sha256(value):
        raise ValueError
    return value


def _time(value: Any) -> str:
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        raise ValueError
    datetime.fromisoformat(value)
    return value


def _positive(value: Any) -> float:
    if number(value) <= 0:
        raise ValueError
    return number(value)


def _data(value: Any) -> dict[str, Any]:
    table = dict_of(plain)(value)
    word(table.get("name"))
    if "fingerprint" not in table or not (table["fingerprint"] is None or word(table["fingerprint"])):
        raise ValueError
    return table


_dtype = one_of(*DTYPES)
_sizes = list_of(integer(0, 1 << 48), most=64)


def _shape(value: Any) -> tuple[int, ...]:
    sizes = _sizes(value)
    if (
        math.prod(max(size, 1) for size in sizes) >= 1 << 63
    ):  # torch computes strides from it, even of no values
        raise ValueError
    return sizes


def _read_tensors(fields: Fields) -> dict[str, TensorSpec]:
    tensors = {}
    for name in fields.keys():  # noqa: SIM118  (a method of Fields, not of a dict)
        value = fields.take(check_tensor_name(name), lambda v: v, "an object")
        tensors[name] = _quick_spec(value) or _read_spec(Fields(value, f"tensors.{name}"))
    return tensors


def _quick_spec(value: Any) -> TensorSpec | None:
    """What :func:`_read_spec` reads, in a third of the time, or None: then that one says what is wrong."""
    try:
        if value.keys() == {"dtype", "shape", "sha256"}:
            return TensorSpec(_dtype(value["dtype"]), _shape(value["shape"]), _sha256(value["sha256"]))
    except (AttributeError, ValueError, TypeError):
        pass
    return None


def _read_spec(row: Fields) -> TensorSpec:
    spec = TensorSpec(
        dtype=row.take("dtype", _dtype, "a dtype such as 'float32'"),
        shape=row.take("shape", _shape, "a list of sizes >= 0"),
        sha256=row.take("sha256", _sha256, "64 hex digits"),
    )
    row.close()
    return spec


def _read_arch(fields: Fields) -> Arch:
    arch = Arch(
        name=fields.take("name", word, "an architecture such as 'resnet50'"),
        library=fields.take("library", word, "a library such as 'torchvision'"),
        style=fields.maybe("style", one_of("pytorch", "caffe"), "'pytorch' or 'caffe'"),
        stem=fields.take("stem", word, "a description such as '7x7/2+maxpool'"),
        feature_channels=fields.take("feature_channels", list_of(integer(1)), "a list of channel counts"),
    )
    fields.close()
    return arch


def _read_preprocessing(fields: Fields) -> Preprocessing:
    size = fields.take("input_size", list_of(integer(1), 2, 2), "[height, width] in pixels")
    preprocessing = Preprocessing(
        channel_order=fields.take("channel_order", one_of("rgb", "bgr", "gray"), "'rgb', 'bgr' or 'gray'"),
        mean=fields.take("mean", list_of(number, 1), "a finite number per channel"),
        std=fields.take("std", list_of(_positive, 1), "a number > 0 per channel"),
        scale=fields.take("scale", one_of("0-255", "0-1"), "'0-255' or '0-1'"),
        interpolation=fields.take("interpolation", word, "a name such as 'bilinear'"),
        input_size=(size[0], size[1]),
    )
    fields.close()
    return preprocessing


def _read_recipe(fields: Fields) -> Recipe | None:
    value = fields.maybe("recipe", lambda v: v, "an object")
    if value is None:
        return None
    inner = Fields(value, "recipe")
    recipe = Recipe(
        config_name=inner.take("config_name", word, "the config's name"),
        config_text=inner.take("config_text", text, "the resolved config"),
        config_digest=inner.take("config_digest", _sha256, "64 hex digits"),
    )
    inner.close()
    return recipe


def _read_parents(fields: Fields) -> tuple[Parent, ...]:
    parents = []
    for index, value in enumerate(fields.take("parents", list_of(lambda v: v), "a list of objects")):
        inner = Fields(value, f"parents[{index}]")
        parents.append(
            Parent(
                uri=inner.take("uri", word, "a URI or path"),
                digest=inner.maybe("digest", _sha256, "64 hex digits"),
                relation=inner.take("relation", word, "a relation such as 'finetuned-from'"),
            )
        )
        inner.close()
    return tuple(parents)


def _read_probe(fields: Fields) -> Probe | None:
    value = fields.maybe("probe", lambda v: v, "an object")
    if value is None:
        return None
    inner = Fields(value, "probe")
    probe = Probe(
        input=inner.take("input", word, "the name of the fixed input"),
        stages=inner.take("stages", dict_of(list_of(number)), "an object of lists of finite numbers"),
    )
    inner.close()
    return probe

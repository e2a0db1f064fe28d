"""A content-addressed, verified checkpoint registry: publish, resolve and load weights by ``sosr://`` URI.

Importing this package is cheap: torch is imported when tensors are touched, mmengine only by
``sosr_det.registry.scheme``.
"""

from sosr_det.registry.audit import Audit, audit_all, audit_digest, audit_refs
from sosr_det.registry.backbone_state import split_backbone
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import TensorSpec, digest_of_specs, tensor_specs, tensors_digest
from sosr_det.registry.manifest import Arch, Manifest, Parent, Preprocessing, Probe, Recipe, Summary
from sosr_det.registry.names import SosrUri, check_name, check_tag, parse_uri
from sosr_det.registry.opening import open_registry
from sosr_det.registry.safe_load import extract_state_dict, load_state_file
from sosr_det.registry.store import Entry, Listing, Registry, default_root

__all__ = [
    "Arch",
    "Audit",
    "Damage",
    "Entry",
    "Listing",
    "Manifest",
    "Parent",
    "Preprocessing",
    "Probe",
    "Recipe",
    "Registry",
    "SosrUri",
    "Summary",
    "TensorSpec",
    "audit_all",
    "audit_digest",
    "audit_refs",
    "check_name",
    "check_tag",
    "default_root",
    "digest_of_specs",
    "extract_state_dict",
    "load_state_file",
    "open_registry",
    "parse_uri",
    "split_backbone",
    "tensor_specs",
    "tensors_digest",
]

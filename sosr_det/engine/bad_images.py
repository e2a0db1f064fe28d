"""What a run does about an image that cannot be read: the option, the config's key and the hook."""

from __future__ import annotations

from typing import Any

from sosr_det.data.unreadable import DEFAULT_MOST
from sosr_det.errors import ConfigError

KEY = "unreadable_images"
POLICIES = ("error", "skip")


def apply_bad_image_policy(cfg: Any, policy: str | None, most: int | None) -> None:
    """Settle ``cfg.unreadable_images = dict(policy=..., most=...)``, and carry its hook.

    Args:
        cfg: of the run; what its own key says holds where the command line says nothing.
        policy: ``'error'``, ``'skip'`` or None.
        most: with ``'skip'``, how many may be unreadable, 0 or more; or None.

    Raises:
        ConfigError: another policy, a limit without ``'skip'``, a negative limit.
    """
    asked = dict(cfg.get(KEY) or {})
    unknown = set(asked) - {"policy", "most"}
    policy = policy or asked.get("policy", "error")
    if unknown or policy not in POLICIES:
        raise ConfigError(
            f"--on-bad-image (unreadable_images in a config, with policy and most) is 'error' or 'skip', got "
            f"{sorted(unknown) if unknown else repr(policy)}"
        )
    if policy == "error":
        if most is not None:
            raise ConfigError(
                "--max-bad-images goes with --on-bad-image skip; without it the first one stops the run."
            )
        cfg.pop(KEY, None)
        return
    most = asked.get("most", DEFAULT_MOST) if most is None else most
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise ConfigError(f"--max-bad-images must be a whole number of at least 0, got {most!r}")
    cfg[KEY] = {"policy": policy, "most": most}
    hooks = list(cfg.get("custom_hooks") or [])
    if not any(hook.get("type") == "UnreadableImagesHook" for hook in hooks):
        cfg.custom_hooks = [*hooks, {"type": "UnreadableImagesHook"}]

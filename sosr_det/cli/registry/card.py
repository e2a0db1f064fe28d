"""``sosr-det registry card``: a model card for people and for the Hugging Face Hub."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from sosr_det.cli.registry.common import JsonOption, RootOption, UriArgument, as_uri, print_json
from sosr_det.errors import ConfigError
from sosr_det.registry.card import front_matter, model_card
from sosr_det.registry.opening import open_registry


def card_command(
    uri: UriArgument,
    out: Annotated[
        Path | None, typer.Option(help="File to write, such as README.md; default: print.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model card in Markdown, with the front matter that the Hugging Face Hub reads."""
    registry = open_registry(root)
    entry = registry.resolve(as_uri(uri))
    text = model_card(registry, entry)
    if out is not None:
        _write(out, text, force)
    if as_json:
        print_json(
            {"uri": entry.uri, "digest": entry.digest, "front_matter": front_matter(entry), "card": text}
        )
    elif out is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"wrote {out}")


def _write(path: Path, text: str, force: bool) -> None:
    """Whole or not at all; never over a file without being asked."""
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; give another --out, or --force to replace it.")
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed either
            temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error}. Give another --out.") from error

"""A text encoder for models that read prompts, made here instead of downloaded: random weights, a toy vocabulary."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cat", "dog")
_PHRASE = "a random two-layer text encoder in place of the downloaded one"


def local_text_encoder(cfg: Any, scratch: str | Path) -> list[str]:
    """Point a config's language model to a folder under ``scratch``; returns a phrase if it has one.

    Where ``transformers`` is not installed nothing changes, and MMDetection says so when it builds the model.
    """
    language = cfg.model.get("language_model")
    if not language or importlib.util.find_spec("transformers") is None:
        return []
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = Path(scratch) / "text_encoder"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(_WORDS) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(_WORDS),
        hidden_size=768,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=768,
    )  # 768 as in BERT base, so that the layers after it keep their shapes
    BertModel(config).save_pretrained(folder)
    language["name"] = str(folder)
    return [_PHRASE]

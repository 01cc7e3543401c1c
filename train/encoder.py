"""The file of a pre-trained ECG encoder: its weights and what they were made of.

Knows nothing of how an encoder is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.errors import CheckpointError, DataError
from train.models.ecg_transformer import EcgTransformer, TransformerConfig

FORMAT = "affectd-encoder/1"
TASK = ("n_outputs", "hidden", "dropout", "eda_times")
"""Keys of TransformerConfig that are no affair of the encoder."""
HEAD = "head."
"""What names of the head's weights begin with."""
REMEDY = "make it with affectd-train pretrain"


def save_encoder(path: Path, encoder: EcgTransformer, provenance: Mapping[str, Any]) -> None:
    """Write everything but the head; read back by :func:`load_encoder`."""
    content = {
        "format": FORMAT,
        "config": encoder.config.as_dict(),
        "state": {name: weight.cpu() for name, weight in body(encoder).items()},
        "provenance": dict(provenance),
    }
    write(path, content)


def body(encoder: EcgTransformer) -> dict[str, Tensor]:
    """Weights and statistics, by name, of everything but the head for emotion."""
    return {name: weight for name, weight in encoder.state_dict().items() if not name.startswith(HEAD)}


def load_encoder(path: Path, config: TransformerConfig | None = None) -> tuple[EcgTransformer, dict[str, Any]]:
    """An encoder with a fresh head, and its provenance; runs no code from the file.

    ``config`` is the network to be fine-tuned, where it has other classes or another dropout than pre-training; raises
    CheckpointError where anything of the encoder differs, or the file is none.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise CheckpointError(str(path), "format", f"{content['format']!r} where {FORMAT!r} is due", REMEDY)
        made = TransformerConfig(**content["config"])
        wanted = config or made
        own = replace(made, **{k: getattr(wanted, k) for k in TASK})
        if own != wanted:
            other = [k for k, v in vars(wanted).items() if getattr(own, k) != v]
            raise CheckpointError(str(path), other[0], f"is {getattr(own, other[0])!r} there", "use the same encoder")
        encoder = EcgTransformer(wanted)
        missing, foreign = encoder.load_state_dict(content["state"], strict=False)
        if foreign or any(not name.startswith(HEAD) for name in missing):
            raise CheckpointError(str(path), "state", f"lacks {missing} or has {foreign} beside", REMEDY)
        return encoder.eval(), dict(content["provenance"])
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(str(path), "file", error.strerror or "cannot be read", REMEDY) from error
    except Exception as error:  # torch's readers raise many kinds for a file that is none of theirs
        raise CheckpointError(str(path), "file", f"cannot be read ({type(error).__name__})", REMEDY) from error


def write(path: Path, content: Mapping[str, Any]) -> None:
    """A file of torch's that is there whole or not at all; raises DataError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    try:
        torch.save(dict(content), beside)
    except OSError as error:
        raise DataError(str(path), "file", error.strerror or "cannot be written", "make room") from error
    beside.replace(path)

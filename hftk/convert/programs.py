"""Targets that other programs write, each imported only then; they take what is hftk's already."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hftk
from hftk.convert.greedy import Greedy
from hftk.convert.plan import Step
from hftk.convert.rules import Config
from hftk.convert.vocabulary import Vocabulary
from hftk.convert.writing import Read
from hftk.errors import UsageError

RUN_BY_TENSORFLOW = ("keras", "savedmodel")
FROM_HFTK = (*RUN_BY_TENSORFLOW, "ctranslate2")


def write_with_tensorflow(file: Path, config: Config, steps: Sequence[Step], read: Read, greedy: Greedy | None) -> None:
    """
    Writes `model.keras`, or a SavedModel.

    Args:
        file (`Path`):
            `model.keras` or `saved_model.pb`.
        config (`dict`):
            hftk's configuration.
        steps (`Sequence[Step]`), read (`Callable[[Step], np.ndarray]`):
            Its tensors, by Keras' names.
        greedy ([`Greedy`], *optional*):
            The settings of a SavedModel.

    Raises:
        UsageError: TensorFlow is not installed.
    """
    try:
        from hftk.convert.savedmodel import write_keras, write_savedmodel
    except ModuleNotFoundError as error:
        raise UsageError(f"{file.name}: TensorFlow writes it, and is not installed: pip install 'hftk[tf]'") from error
    if greedy is None:
        write_keras(file, config, steps, read)
    else:
        write_savedmodel(file.parent, config, steps, read, greedy)


def write_with_ctranslate2(
    file: Path, config: Config, steps: Sequence[Step], read: Read, vocabulary: Vocabulary
) -> list[dict[str, Any]]:
    """
    Writes `model.bin` and what belongs to it. Arguments are those of [`write_with_tensorflow`], tensors by torch's
    names, and:

    Args:
        vocabulary ([`Vocabulary`]):
            The model's tokens.

    Returns:
        `list[dict]`: what was compared with torch, as of [`compare_outputs`].

    Raises:
        UsageError: CTranslate2 is not installed.
    """
    try:
        from hftk.convert.ctranslate2_model import write_ctranslate2
    except ModuleNotFoundError as error:
        raise UsageError(f"{file.name}: CTranslate2 writes it; it is not installed: pip install 'hftk[ct2]'") from error
    arrays = {step.target: read(step) for step in steps}
    return write_ctranslate2(file.parent, hftk.HftkConfig(**config), arrays, vocabulary)

"""mmlop: CLIP adapted to your own classes with multi-modal low-rank prompts.

``import mmlop`` is cheap; torch is imported by the first call that needs it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmlop.classifier import Classifier

try:
    __version__ = version("mmlop")
except PackageNotFoundError:  # running from a checkout that was never installed
    __version__ = "0.0.0"


def load(uri: str, device: str = "cpu") -> Classifier:
    """Load a classifier: ``models:/mmlop-<dataset>@champion``, ``runs:/<id>/adapter``, or a folder.

    Raises :class:`mmlop.errors.MmlopError` with one sentence where that cannot be done.
    """
    from mmlop.classifier import Classifier
    from mmlop.registry import resolve

    return Classifier.load(resolve(uri), device)

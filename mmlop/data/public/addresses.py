"""Where files of several data sets are. Checksums, here and in the records, are those that the sources, or projects that
use them, publish."""

from __future__ import annotations

from mmlop.data.download import Remote, drive

VGG = "https://www.robots.ox.ac.uk/~vgg/data"
SPLITS = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/ac9077ee4e422f768c9b9109551468605e33ec9a/splits"
)
MIRROR = "https://huggingface.co/zhengli97/prompt_learning_dataset/resolve/main"


def split_file(dataset: str, file_id: str, checksum: str, size: int | None = None) -> Remote:
    """CoOp's split file: from a Git copy, else from the authors' Google Drive."""
    name = f"split_zhou_{dataset}.json"
    return Remote(name, (f"{SPLITS}/{name}", drive(file_id)), checksum, size)


def mirror(name: str, checksum: str | None = None, size: int | None = None) -> tuple[Remote, ...]:
    """A copy of a whole data set as CoOp lays it out."""
    return (Remote(name, (f"{MIRROR}/{name}",), checksum, size),)

"""The protocols of the literature, as one idea: what is trained, on which classes and shots, and what it is tested on.

| protocol              | trained on                          | tested on                                               |
|-----------------------|-------------------------------------|---------------------------------------------------------|
| base_to_novel         | the base classes                    | base and novel classes, each among their own candidates |
| few_shot              | all classes, 1, 2, 4, ... shots     | all classes                                             |
| all_classes           | all classes                         | all classes: this adapter is delivered                  |
| cross_dataset         | all classes of another data set     | all classes                                             |
| domain_generalisation | all classes of its original         | all classes, often not all of the original's            |

The first three train on the data set they test on; the last two test adapters of a source on a target (and, as
`in_domain`, on the source itself where it is listed as a target).
"""

from __future__ import annotations

from dataclasses import dataclass

from mmlop.config import Params

BASE_TO_NOVEL, FEW_SHOT, ALL_CLASSES = "base_to_novel", "few_shot", "all_classes"
CROSS_DATASET, DOMAIN_GENERALISATION, IN_DOMAIN = "cross_dataset", "domain_generalisation", "in_domain"
TRANSFER = "transfer"


@dataclass(frozen=True)
class Training:
    """One training of every seed."""

    protocol: str
    shots: int
    base_only: bool = False  # train on the base classes alone
    epochs: int | None = None  # None: as configured
    depth: int | None = None


def trainings(params: Params, parts: bool = True) -> list[Training]:
    """What is trained on a data set, the delivered adapter last.

    Without ``parts``, where pictures are too few for a test part, that adapter alone.
    """
    shots, protocols = params.fewshot.shots, params.protocols
    chosen = []
    if parts and protocols.base_to_novel:
        chosen.append(Training(BASE_TO_NOVEL, shots, base_only=True))
    if parts:
        chosen += [Training(FEW_SHOT, k, epochs=protocols.few_shot.epochs) for k in protocols.few_shot.shots]
    return [*chosen, Training(ALL_CLASSES, shots)]


def measured(params: Params) -> list[Training]:
    """The same without the delivered adapter: what a sweep is about."""
    return trainings(params)[:-1]


def transfer(params: Params) -> Training:
    """What is trained on a source, to be tested on other data sets."""
    settings = params.protocols.transfer
    return Training(TRANSFER, params.fewshot.shots, epochs=settings.epochs, depth=settings.depth)


def of_pair(source: str, target: str, variant_of: str | None) -> str:
    """The protocol by which adapters of ``source`` are tested on ``target``, a variant of ``variant_of``."""
    if target == source:
        return IN_DOMAIN  # the column that papers print beside the others
    return DOMAIN_GENERALISATION if variant_of == source else CROSS_DATASET


def shots_needed(params: Params) -> list[int]:
    """Every number of shots that some protocol trains with."""
    return sorted({params.fewshot.shots, *params.protocols.few_shot.shots})

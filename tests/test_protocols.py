"""Which trainings params.yaml asks for, and by which protocol a pair of data sets is measured."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mmlop.config import Params
from mmlop.protocols import Training, of_pair, shots_needed, trainings, transfer


def params(**protocols: Any) -> Params:
    values = {
        "datasets": ["world", "dtd"],
        "test_sets": ["world_dark"],
        "backbone": "tiny",
        "fewshot": {"shots": 16},
        "protocols": protocols,
        "profiles": {"tiny": {"architecture": "tiny", "train": {"epochs": 30}}},
    }
    return Params.model_validate(values)


def test_the_delivered_adapter_is_always_trained_and_last() -> None:
    delivered = Training("all_classes", 16)
    assert trainings(params()) == [Training("base_to_novel", 16, base_only=True), delivered]
    assert trainings(params(base_to_novel=False)) == [delivered]
    few = {"shots": [1, 8], "epochs": 50}
    assert trainings(params(base_to_novel=False, few_shot=few)) == [
        Training("few_shot", 1, epochs=50),
        Training("few_shot", 8, epochs=50),
        delivered,
    ]
    assert trainings(params(few_shot=few), parts=False) == [delivered]


def test_shots_are_drawn_for_every_protocol() -> None:
    assert shots_needed(params()) == [16]
    assert shots_needed(params(few_shot={"shots": [4, 1, 16]})) == [1, 4, 16]


def test_a_source_is_trained_with_settings_of_its_own() -> None:
    settings = {"sources": ["world"], "targets": ["dtd", "world_dark"], "depth": 3, "epochs": 20}
    assert transfer(params(transfer=settings)) == Training("transfer", 16, epochs=20, depth=3)


def test_the_protocol_of_a_pair() -> None:
    assert of_pair("world", "world", None) == "in_domain"
    assert of_pair("world", "world_dark", "world") == "domain_generalisation"
    assert of_pair("world", "dtd", None) == "cross_dataset"
    assert of_pair("dtd", "world_dark", "world") == "cross_dataset"


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        ({"transfer": {"sources": ["pets"], "targets": ["dtd"]}}, "has 'pets', which is not among datasets"),
        ({"transfer": {"sources": ["world"], "targets": ["pets"]}}, "'pets', which is neither among datasets nor among"),
        ({"transfer": {"sources": ["world"]}}, "needs both sources and targets, or neither"),
        ({"transfer": {"sources": ["world"], "targets": ["dtd", "dtd"]}}, "protocols.transfer.targets lists a value twice"),
        ({"few_shot": {"shots": [1, 1]}}, "protocols.few_shot.shots lists a value twice"),
        ({"few_shot": {"shots": [1], "epochs": 1}}, "warmup_epochs is 1, which leaves nothing of 1 epochs"),
    ],
)
def test_lists_that_do_not_fit_together_are_refused(protocols: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params(**protocols)

"""The adapter as an MLflow pyfunc model: MLflow copies this file beside the adapter and runs it to load the model.

Pictures go in as the bytes of picture files (base64 over HTTP); for each comes a label and the score of every class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from pydantic import BaseModel


class Answer(BaseModel):
    """What a picture shows."""

    label: str
    score: float  # probability of the label among the candidate classes
    scores: dict[str, float]  # of every class, the most probable first


class AdapterModel(PythonModel):
    def load_context(self, context: Any) -> None:
        from mmlop.classifier import Classifier

        self.classifier = Classifier.load(Path(context.artifacts["adapter"]))

    # The type of `model_input` is the model's signature: MLflow checks it and decodes base64.
    def predict(self, model_input: list[bytes]) -> list[Answer]:  # type: ignore[override]
        from mmlop.errors import MmlopError

        try:
            predictions = self.classifier.predict(model_input)
        except MmlopError as error:  # a broken picture: the caller's mistake, so an answer of 400 with the sentence
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return [
            Answer(label=one.label, score=one.scores[0], scores=dict(zip(one.labels, one.scores, strict=True)))
            for one in predictions
        ]


set_model(AdapterModel())

"""The registered model as MLflow runs it: a table of pictures in, names with scores out.

MLflow stores this file with the model (models-from-code) and runs it to load the model, so it stands alone:
it needs the method package, which is stored with the model as well, and nothing of the platform.
"""

import base64
import binascii
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class RecogniserModel(PythonModel):
    """Names what is in a picture, with the category index stored in the same model version."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the artefacts ``model`` (Hugging Face folder) and ``index``; ValueError without an index."""
        from finedefics.scoring import Recogniser

        if "index" not in context.artifacts:
            raise ValueError(
                "this version was registered without a category index, so it has no names to give"
            )
        self._recogniser = Recogniser.load(context.artifacts["model"], context.artifacts["index"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recognise a batch of pictures.

        Args:
            context: MLflow's; unused, everything was loaded by `load_context`.
            model_input: column ``image``: encoded pictures (JPEG, PNG) as bytes or as base64 text.
            params: ``answer``, the scorer (default "alignment"), and ``top``, how many names (default 5).

        Returns:
            One row a picture: ``category_id``, ``name`` and ``score`` of the best answer, and ``answers``,
            the ``top`` best as a list of ``{"category_id", "name", "score"}``, best first; no name and no
            answers where the model replied with something else than a category.

        Raises:
            ValueError: there is no column ``image``, or a value is neither bytes nor base64 text.
        """
        if "image" not in model_input:
            raise ValueError(f"no column `image`; the columns are: {', '.join(map(str, model_input))}")
        pictures = [_picture(value, row) for row, value in enumerate(model_input["image"])]
        settings: dict[str, Any] = {"answer": "alignment", "top": 5} | (params or {})
        ranked = self._recogniser.recognise(pictures, answer=settings["answer"], top=int(settings["top"]))
        rows = [
            [
                {"category_id": category, "name": name, "score": float(score)}
                for category, name, score in answers
            ]
            for answers in ranked
        ]
        none = {"category_id": None, "name": None, "score": None}
        return pd.DataFrame([{**(answers[0] if answers else none), "answers": answers} for answers in rows])


def _picture(value: Any, row: int) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"image in row {row} is neither bytes nor base64 text: {error}") from error


set_model(RecogniserModel())

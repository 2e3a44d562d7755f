"""The category index: embeddings of names and descriptions, and how the model that made them is asked."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from finedefics.conversation import Templates
from finedefics.errors import FinedeficsError
from finedefics.readout import DEFAULT, Readout
from finedefics.records import Category, check_distinct
from finedefics.scoring.calibration import SLOPE, Calibration, calibrated_scores, equal_shares
from finedefics.scoring.language import UNUSABLE, Language
from finedefics.scoring.weighing import EnsembleWeight

Variant = Literal["names", "descriptions", "sum"]
CATEGORIES, EMBEDDINGS, ASKING = "categories.json", "index.safetensors", "asking.json"
FITTED = "fitting_pictures"  # their embeddings, beside those of names and descriptions


@dataclass(frozen=True)
class CategoryIndex:
    """What a model knows of categories, built from texts: it grows without training or pictures.

    Attributes:
        categories: in the order of the rows.
        names, descriptions: [categories, dim], normalised; a category without a description has its name's.
        templates: what the model was asked in training.
        object_readout: where it was trained to embed a picture (`finedefics.terms.ObjectiveSettings`).
        ensemble: the weight of the ensemble answer, where a validation split decided one.
        calibration: against hubs, where training pictures were embedded for it.
    """

    categories: tuple[Category, ...]
    names: Tensor
    descriptions: Tensor
    templates: Templates = field(default_factory=Templates)
    object_readout: Readout = DEFAULT
    ensemble: EnsembleWeight | None = None
    calibration: Calibration | None = None

    @staticmethod
    def build(
        language: Language, categories: Sequence[Category], object_readout: Readout = DEFAULT
    ) -> "CategoryIndex":
        """Embed the names and descriptions of categories; the templates are the language's own.

        Raises:
            FinedeficsError: a category has no name or shares its own, or has an embedding that is not finite.
        """
        check_distinct(categories)
        names, descriptions = _embed(language, categories)
        return CategoryIndex(
            tuple(categories), names, descriptions, language.render.templates, object_readout
        )

    def embeddings(self, variant: Variant = "sum") -> Tensor:
        """[categories, dim], normalised: names, descriptions, or the direction of their sum."""
        if variant == "sum":
            return F.normalize(self.names + self.descriptions, dim=-1)
        return self.names if variant == "names" else self.descriptions

    @cached_property
    def hubs(self) -> dict[Variant, Tensor]:
        """Of every variant the hub terms [categories]; computed once, of the categories that are here."""
        if self.calibration is None:
            raise FinedeficsError(
                "there is nothing to calibrate alignment with",
                place="category index",
                cure="evaluate the model with `--answers alignment`, which fits it on training pictures",
            )
        hubs = self.calibration.hubs
        return {variant: hubs(self.embeddings(variant)) for variant in get_args(Variant)}

    @property
    def calibrates(self) -> bool:
        """Whether alignment is calibrated where nothing else is said."""
        return self.calibration is not None and self.calibration.on

    @property
    def slope(self) -> float:
        """What the answer `alignment` rises by with the cosine."""
        return SLOPE if self.calibrates else 1.0

    def scores(self, objects: Tensor, variant: Variant = "sum", calibrated: bool | None = None) -> Tensor:
        """Alignment [pictures, categories] of object embeddings [pictures, dim], on their device.

        Args:
            calibrated: whether the calibration is used; None as the index says.

        Raises:
            FinedeficsError: it is to be used, and there is none.
        """
        cosines = objects @ self.embeddings(variant).to(objects.device).T
        if not (self.calibrates if calibrated is None else calibrated):
            return cosines
        return calibrated_scores(cosines, self.hubs[variant].to(objects.device))

    def calibrated_by(
        self, objects: Tensor, *, on: bool, why: str, dataset: str, split: str
    ) -> "CategoryIndex":
        """This index with a calibration fitted on pictures of which no label is known.

        Args:
            objects: [pictures, dim], their normalised embeddings by this index's model, in random order.
            on, why, dataset, split: recorded (`Calibration`).
        """
        chosen, share = equal_shares(self.scores(objects, calibrated=False))
        fitted = Calibration(objects[chosen], on, why, dataset, split, len(objects), share)
        return replace(self, calibration=fitted)

    def add(self, language: Language, categories: Sequence[Category]) -> "CategoryIndex":
        """This index with more categories at its end; only their texts are embedded.

        They are calibrated as the others are, with the pictures that the index keeps.

        Args:
            language: of the model that made this index, with its templates.

        Raises:
            FinedeficsError: an id or a name is in the index already, or empty (exit code 2); an embedding is
                not finite.
        """
        check_distinct([*self.categories, *categories])
        names, descriptions = _embed(language, categories)
        return replace(
            self,
            categories=(*self.categories, *categories),
            names=torch.cat([self.names, names]),
            descriptions=torch.cat([self.descriptions, descriptions]),
        )

    def save(self, folder: Path) -> None:
        """Write ``categories.json``, ``index.safetensors`` and ``asking.json``."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        rows = [{**vars(c), "attributes": dict(c.attributes)} for c in self.categories]
        (folder / CATEGORIES).write_text(json.dumps(rows, indent=1))
        tensors = {"names": self.names, "descriptions": self.descriptions}
        if self.calibration:
            tensors[FITTED] = self.calibration.objects
        stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(stored, str(folder / EMBEDDINGS))
        asking = {
            "templates": asdict(self.templates),
            "object_readout": self.object_readout,
            "ensemble": asdict(self.ensemble) if self.ensemble else None,
            "calibration": self.calibration.told() if self.calibration else None,
        }
        (folder / ASKING).write_text(json.dumps(asking, indent=1))

    @staticmethod
    def load(folder: Path) -> "CategoryIndex":
        """Read what `save` wrote; FinedeficsError when it is not there."""
        from safetensors.torch import load_file

        if missing := [n for n in (CATEGORIES, EMBEDDINGS, ASKING) if not (folder / n).is_file()]:
            raise FinedeficsError(
                f"no category index here ({missing[0]} is missing)",
                place=str(folder),
                cure="evaluate the model to build one",
            )
        rows = json.loads((folder / CATEGORIES).read_text())
        asking = json.loads((folder / ASKING).read_text())
        stored = load_file(str(folder / EMBEDDINGS))
        fitted = asking.get("calibration")  # what came after the first indexes were stored
        return CategoryIndex(
            tuple(Category(**row) for row in rows),
            stored["names"],
            stored["descriptions"],
            Templates.of(asking["templates"]),
            asking["object_readout"],
            EnsembleWeight(**asking["ensemble"]) if asking["ensemble"] else None,
            Calibration.of(fitted, stored[FITTED]) if fitted else None,
        )


@torch.no_grad()
def _embed(language: Language, categories: Sequence[Category]) -> tuple[Tensor, Tensor]:
    texts = [c.name for c in categories] + [c.description or c.name for c in categories]
    unique = list(dict.fromkeys(texts))
    closed = [language.render.closed(text) for text in unique]
    # by length, so that a few long texts do not make every batch long
    order = sorted(range(len(closed)), key=lambda i: len(closed[i]))
    parts = [order[start : start + 128] for start in range(0, len(order), 128)]
    found = torch.cat([language.embed([closed[i] for i in part]) for part in parts])
    place = {unique[i]: row for row, i in enumerate(order)}
    both = found[[place[text] for text in texts]].cpu().unflatten(0, (2, len(categories)))
    for what, found in zip(("name", "description"), both, strict=True):
        for category, finite in zip(categories, found.isfinite().all(-1).tolist(), strict=True):
            if not finite:
                raise FinedeficsError(
                    f"the model's embedding of the {what} of {category.name!r} is not finite",
                    place=f"category {category.category_id}",
                    cure=UNUSABLE,
                )
    return both[0], both[1]

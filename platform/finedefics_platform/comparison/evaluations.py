"""The evaluations that a workspace has: whose, on what, and those of one model put together."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from finedefics_platform.base.storage import Location, committed
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.evaluation.items import Evaluated, open_evaluation

COLUMNS = ("sample_id", "category_id", "group", "answer", "scope", "predicted", "correct", "description")
LATER = ("options", "position", "reply", "score")  # columns that older item tables lack


class Ground(NamedTuple):
    """What figures must share to stand side by side: which pictures, and which options they were asked on."""

    dataset_digest: str
    split: str
    limit: int | None
    options: int | None
    seed: int | None
    options_of: str | None


@dataclass(frozen=True)
class Found:
    """An evaluation by what its summary says; its tables are not read yet."""

    place: Location
    summary: Mapping[str, Any]

    @property
    def ground(self) -> Ground:
        """What it was measured on."""
        protocol = self.summary.get("protocol", {})
        return Ground(
            self.summary["dataset_digest"],
            self.summary["split"],
            self.summary.get("limit"),
            protocol.get("options"),
            protocol.get("seed"),
            protocol.get("options_of"),
        )

    @property
    def finished(self) -> float:
        """Unix seconds; 0 where it is not told."""
        return float(self.summary.get("finished", 0))

    @property
    def is_encoder(self) -> bool:
        """Whether a frozen encoder was asked and no multimodal model."""
        return bool(self.summary.get("encoder"))


def all_evaluations(workspace: Workspace) -> list[Found]:
    """Every finished evaluation, newest first; one whose summary cannot be read is left out."""
    found = []
    for place in workspace.evaluations.children():
        files = None if place.name.startswith(".") else committed(place)
        if files is None:
            continue
        try:
            summary = (files / "summary.json").read_json()
            one = Found(place, summary)
            found.append((one.finished, one.ground and one))
        except (FileNotFoundError, KeyError, ValueError):
            continue
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])]


def best_ground(by_arm: Mapping[str, Sequence[Found]], beside: Sequence[Found] = ()) -> Ground | None:
    """The ground that most arms were evaluated on; of equals that of most pictures, with the base, newest.

    Args:
        by_arm: the evaluations of each arm.
        beside: those of the base that they began with.
    """
    with_base = {one.ground for one in beside}
    grounds: dict[Ground, list[float]] = {}
    for found in by_arm.values():
        for ground in {one.ground for one in found}:
            own = [one for one in found if one.ground == ground]
            count = grounds.setdefault(ground, [0, 0, ground in with_base, 0])
            count[0] += 1
            count[1] = max(count[1], *(float(one.summary.get("pictures", 0)) for one in own))
            count[3] = max(count[3], *(one.finished for one in own))
    return max(grounds, key=lambda ground: grounds[ground], default=None)


@dataclass(frozen=True)
class Judged:
    """All that one model's evaluations on one ground say; of an answer asked twice the newest counts."""

    evaluations: tuple[Evaluated, ...]

    @classmethod
    def of(cls, found: Iterable[Found]) -> "Judged":
        """Read evaluations, which are newest first."""
        return cls(tuple(open_evaluation(one.place) for one in found))

    @property
    def summary(self) -> Mapping[str, Any]:
        """Of the newest."""
        return self.evaluations[0].summary

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The items: `COLUMNS` and `LATER`, None where an older table has no such column."""
        frames: list[pd.DataFrame] = []
        asked: set[tuple[str, str]] = set()
        for evaluated in self.evaluations:
            own = evaluated.items().to_pandas()
            for name in LATER:
                if name not in own:
                    own[name] = None
            own = own[[*COLUMNS, *LATER]]
            new = [pair not in asked for pair in zip(own["answer"], own["scope"], strict=True)]
            asked |= {*zip(own["answer"], own["scope"], strict=True)}
            frames.append(own[new])
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)

    def merged(self, name: str) -> dict[str, Any]:
        """A mapping of the summaries by answer or scope, put together."""
        told: dict[str, Any] = {}
        for evaluated in reversed(self.evaluations):
            told |= evaluated.summary.get(name) or {}
        return told

    def with_texts(self) -> Evaluated | None:
        """The newest that has embeddings of texts too."""
        for evaluated in self.evaluations:
            if not evaluated.summary.get("encoder") and (evaluated.folder / "embeddings.npz").is_file():
                return evaluated
        return None


def regrouped(frame: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
    """The items with the groups of another arm: what that had no label for is new for all beside it."""
    return frame.assign(group=frame["category_id"].map(groups).fillna(frame["group"]))


def of_models(found: Iterable[Found], digests: Collection[str]) -> list[Found]:
    """The evaluations of a model, by the digests of its content."""
    return [one for one in found if one.summary.get("model_digest") in digests]

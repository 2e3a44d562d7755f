"""What a frozen encoder answers: the nearest text, the nearest labelled pictures, or a linear probe.

===============  ======================================================================================
``zero_shot``    cosine with each category's name in the encoder's template
``zero_shot_texts``  … with the direction of name and description together
``knn``          votes of the k nearest labelled training pictures, weighed by similarity
``linear_probe`` logistic regression on the labelled training pictures
===============  ======================================================================================

The last two know the categories that have a labelled training picture, and no others: those can never be
named. What has to be chosen (k, the strength of regularisation) is chosen on validation pictures; test
pictures are seen once, to be answered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finedefics.errors import FinedeficsError
from finedefics.mining import nearest
from finedefics.registry import Registry

Array = npt.NDArray[np.floating]

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 3))  # of the L2 penalty
_TEMPERATURE = 0.07


@dataclass(frozen=True)
class Known:
    """What an answer may learn from.

    Attributes:
        categories: number of categories that compete.
        train: embeddings [pictures, dim] of labelled training pictures, normalised.
        train_labels: their categories' positions.
        val, val_labels: of labelled validation pictures; may be empty.
        names, texts: embeddings [categories, dim] of names, and of names and descriptions; None where the
            encoder embeds no texts.
        seed: of what chance decides.
    """

    categories: int
    train: Array
    train_labels: npt.NDArray[np.intp]
    val: Array
    val_labels: npt.NDArray[np.intp]
    names: Array | None = None
    texts: Array | None = None
    seed: int = 0

    def judges(self) -> tuple[Array, npt.NDArray[np.intp]]:
        """Validation pictures to choose by: a category that was not learnt is named by no choice."""
        learnt = np.isin(self.val_labels, self.train_labels)
        return self.val[learnt], self.val_labels[learnt]

    def checked(self, answer: str) -> "Known":
        """Itself; FinedeficsError where there is no labelled training picture."""
        if not len(self.train):
            raise FinedeficsError(
                "no picture of the split train has a label to learn from",
                place=f"answer `{answer}`",
                cure="ingest labelled pictures, or ask for zero_shot",
            )
        return self


@dataclass(frozen=True)
class Answerer:
    """How pictures are scored, [pictures, categories] from embeddings [pictures, dim], and how it is set."""

    score: Callable[[Array], Tensor]  # -inf: cannot be named
    chosen: dict[str, Any] = field(default_factory=dict)


ENCODER_ANSWERS: Registry[Callable[[Known], Answerer]] = Registry("answer of an encoder")


@ENCODER_ANSWERS.register("zero_shot")
def zero_shot(known: Known) -> Answerer:
    """Cosine with names."""
    return _nearest_text(known.names, "zero_shot")


@ENCODER_ANSWERS.register("zero_shot_texts")
def zero_shot_texts(known: Known) -> Answerer:
    """Cosine with names and descriptions."""
    return _nearest_text(known.texts, "zero_shot_texts")


def _nearest_text(texts: Array | None, answer: str) -> Answerer:
    if texts is None:
        raise FinedeficsError(
            "this encoder embeds no texts, so it cannot name what it has no picture of",
            place=f"answer `{answer}`",
            cure="ask for knn or linear_probe, or take an encoder of pictures and texts (clip:MODEL)",
        )
    index = torch.as_tensor(texts, dtype=torch.float32)
    return Answerer(lambda rows: torch.as_tensor(rows, dtype=torch.float32) @ index.T)


@ENCODER_ANSWERS.register("knn")
def knn(known: Known) -> Answerer:
    """Weighted votes of the nearest pictures; k is the one that names most validation pictures rightly.

    Without a validation picture of a category that was learnt k is 5, or as many pictures as there are.
    """
    known.checked("knn")
    possible = [k for k in NEIGHBOURS if k <= len(known.train)]
    rows, labels = known.judges()
    if len(rows):
        similarity = _similarities(known, rows)
        right = {k: _accuracy(_votes(known, similarity, k), labels) for k in possible}
        k = max(possible, key=lambda k: (right[k], -k))
        chosen = {"k": k, "chosen_on": "val", "pictures": len(rows), "accuracy": right[k]}
    else:
        k = min(5, len(known.train))
        chosen = {"k": k, "chosen_on": None}
    return Answerer(lambda rows: _votes(known, _similarities(known, rows), k), chosen)


def _similarities(known: Known, rows: Array) -> tuple[Tensor, Tensor]:
    """The nearest training pictures [rows, at most 50] of each row: similarity and position.

    Among equally near ones the picture that stands first.
    """
    most = min(max(NEIGHBOURS), len(known.train))
    found = nearest(torch.as_tensor(rows), torch.as_tensor(known.train), most)
    return torch.from_numpy(found.similarity), torch.from_numpy(found.positions).long()


def _votes(known: Known, nearest: tuple[Tensor, Tensor], k: int) -> Tensor:
    similarity, places = (part[:, :k] for part in nearest)
    labels = torch.as_tensor(known.train_labels)[places]
    votes = torch.zeros(len(places), known.categories)
    votes.scatter_add_(1, labels, (similarity / _TEMPERATURE).sub(1 / _TEMPERATURE).exp())
    # whose picture is not among the nearest is not chosen, yet stays possible: options must be told apart
    able = torch.zeros(known.categories, dtype=torch.bool)
    able[torch.as_tensor(known.train_labels)] = True
    return votes.masked_fill(~able, -torch.inf)


@ENCODER_ANSWERS.register("linear_probe")
def linear_probe(known: Known) -> Answerer:
    """Multinomial logistic regression on standardised features, by L-BFGS in float64.

    The strength of the L2 penalty is the one that names most validation pictures rightly, the stronger among
    equals; without a validation picture of a category that was learnt a fifth of each category's training
    pictures is held out for the choice, and the probe is then fitted on all of them.
    """
    known.checked("linear_probe")
    labels, classes = _as_classes(known.train_labels)
    fit, judge, chosen_on = np.arange(len(labels)), known.judges(), "val"
    if not len(judge[0]):
        fit, held = _held_out(known.train_labels, known.seed)
        judge, chosen_on = (known.train[held], known.train_labels[held]), "a fifth of train"
    chosen: dict[str, Any] = {"l2": 1e-2, "chosen_on": None}
    if len(judge[0]):
        right = {}
        for strength in STRENGTHS:
            probe = _Probe(known.train[fit], labels[fit], classes, strength, known.categories)
            right[strength] = _accuracy(probe(judge[0]), judge[1])
        best = max(STRENGTHS, key=lambda strength: (right[strength], strength))
        chosen = {"l2": best, "chosen_on": chosen_on, "pictures": len(judge[0]), "accuracy": right[best]}
    final = _Probe(known.train, labels, classes, chosen["l2"], known.categories)
    return Answerer(final, {**chosen, "converged": final.converged})


class _Probe:
    """Weights of one fit; calling it scores pictures."""

    def __init__(
        self, features: Array, labels: Tensor, classes: Tensor, strength: float, categories: int
    ) -> None:
        rows = _wide(features)
        self.mean = rows.mean(0)
        # a feature that is constant tells nothing, whatever it is divided by
        self.scale = rows.std(0, unbiased=False).clamp_min(1e-8)
        self.classes, self.categories = classes, categories
        self.weights, self.converged = _fit((rows - self.mean) / self.scale, labels, len(classes), strength)

    def __call__(self, features: Array) -> Tensor:
        rows = (_wide(features) - self.mean) / self.scale
        scores = torch.full((len(rows), self.categories), -torch.inf)
        scores[:, self.classes] = (rows @ self.weights[:-1] + self.weights[-1]).float().cpu()
        return scores


def _fit(rows: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Tensor, bool]:
    """Weights [dim + 1, classes], the last row being the biases, which are not penalised."""
    labels = labels.to(rows.device)
    weights = rows.new_zeros(rows.shape[1] + 1, classes).requires_grad_()
    solver = torch.optim.LBFGS(
        [weights],
        max_iter=300,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(rows @ weights[:-1] + weights[-1], labels)
        value = value + strength * weights[:-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    gradient = weights.grad
    assert gradient is not None
    return weights.detach(), bool(gradient.abs().max() < 1e-3)


def _wide(features: Array) -> Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.as_tensor(features, dtype=torch.float64, device=device)


def _as_classes(labels: npt.NDArray[np.intp]) -> tuple[Tensor, Tensor]:
    """Labels from 0 on, and the category's position of each."""
    classes, numbers = np.unique(labels, return_inverse=True)
    return torch.as_tensor(numbers), torch.as_tensor(classes)


def _held_out(labels: npt.NDArray[np.intp], seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions to fit on and to judge by; a category's only picture is never held out."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held = [
        place
        for label in np.unique(labels)
        for place in order[labels[order] == label][: int((labels == label).sum() / 5 + 0.5)][
            : max(0, int((labels == label).sum()) - 1)
        ]
    ]
    judged = np.array(sorted(held), dtype=np.intp)
    return np.setdiff1d(np.arange(len(labels)), judged), judged


def _accuracy(scores: Tensor, labels: npt.NDArray[np.intp]) -> float:
    return float((scores.argmax(1) == torch.as_tensor(labels)).double().mean())


def check_encoder_answers(answers: Sequence[str]) -> None:
    """FinedeficsError (exit code 2) for the first unknown answer, before any encoder is loaded."""
    for answer in answers:
        ENCODER_ANSWERS[answer]

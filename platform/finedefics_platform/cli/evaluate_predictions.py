"""`finedefics evaluate --from-predictions`: what replies that others wrote are worth, beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from finedefics.errors import FinedeficsError, wrong_use

from .console import Reporter, reporter

if TYPE_CHECKING:
    import pyarrow as pa

    from finedefics.evaluation.across import Compared
    from finedefics.evaluation.scored import Scored
    from finedefics.evaluation.statistics import Seeds
    from finedefics_platform.base.workspace import Workspace

DEFAULT_PARSE = "strict"


@dataclass(frozen=True)
class _Ours:
    """A dataset of ours whose pictures the replies are to.

    Attributes:
        items: the replies as its items.
        told: how many questions have their picture there.
        answer: of ours that is compared, where one is named.
    """

    workspace: "Workspace"
    reference: str
    items: "pa.Table"
    told: Mapping[str, Any]
    answer: str | None


def evaluate_predictions(
    files: Sequence[str],
    against: Sequence[str],
    parse: str | None,
    items: str | None,
    data: str | None,
    split: str,
    answer: str | None,
    others: Mapping[str, Any],
    json: bool,
) -> None:
    """Score files of replies by both parses, compare them where asked, print all that must be known of them.

    Args:
        files: of one method: one a data set, or several of one data set where it was trained with several
            seeds.
        against: of another method, in the same order, or evaluations of ours; may be empty.
        parse: whose figures lead, ``strict`` or ``foci``.
        items: where the item table of the only file is written, Parquet.
        data, split: of ours that the only file is of; None where it need not be known.
        answer: of an evaluation of ours.
        others: options of `evaluate` by their names, which have no meaning here.
    """
    from finedefics.evaluation.across import seeds_of, with_holm
    from finedefics.evaluation.predictions import read_predictions
    from finedefics.evaluation.scored import PARSES, items_table, score, warnings

    _check(files, against, items, data, others)
    out, leading = reporter(json), parse or DEFAULT_PARSE
    scored = [score(read_predictions(file), leading) for file in files]
    ours = _ours(scored[0], data, split, answer) if data else None
    other = {p: [score(one.file, p) for one in scored] for p in PARSES if p != leading}
    told = [
        {**one.told(), **{p: _short(again[row]) for p, again in other.items()}}
        for row, one in enumerate(scored)
    ]
    told = with_holm(told, "p_chance") if len(told) > 1 and not against else told
    rivals: list[Scored] = []
    compared = [_compare(one, way, ours, rivals) for one, way in zip(scored, against, strict=False)]
    differences = with_holm([one.told() for one in compared], "p", "p_clustered")
    seeds = seeds_of(scored)
    said = list(dict.fromkeys(line for one in [*scored, *rivals] for line in warnings(one)))
    if items:
        _write(items, ours.items if ours else items_table(scored[0]))
    _show_scored(out, [one for p in PARSES for one in ([*scored, *rivals] if p == leading else other[p])])
    _show_ours(out, ours)
    _show_compared(out, compared, differences)
    _show_seeds(out, seeds)
    for line in [*said, *_on_few(scored)]:
        out.say(f"[yellow]warning[/]: {escape(line)}")
    mean_accuracy = sum(one.accuracy.mean for one in scored) / len(scored)
    out.done(
        **(told[0] if len(told) == 1 else {"mean_accuracy": mean_accuracy}),
        files=told,
        differences=differences,
        seeds={name: asdict(found) for name, found in seeds.items()},
        matched=ours.told if ours else None,
        warnings=said,
    )


def _check(
    files: Sequence[str],
    against: Sequence[str],
    items: str | None,
    data: str | None,
    others: Mapping[str, Any],
) -> None:
    """Wrong uses, before a file is read."""
    for name, value in others.items():
        if value is not None:
            cure = "leave it out: replies that are there already are scored, and no model is asked"
            if name == "MODEL":
                cure = f"give each file an option of its own: --from-predictions {files[0]} "
                cure += f"--from-predictions {value}"
            place = str(value) if name == "MODEL" else "finedefics evaluate"
            raise wrong_use(f"{name} has no meaning beside --from-predictions", place=place, cure=cure)
    if against and len(against) != len(files):
        raise wrong_use(
            f"{len(files)} files against {len(against)}",
            place="--against",
            cure="name one for each --from-predictions, in the same order",
        )
    for name, value, thing in (("--items", items, "one item table"), ("--data", data, "one dataset")):
        if value and len(files) > 1:
            raise wrong_use(f"{thing} of {len(files)} files", place=name, cure="name one --from-predictions")
    for way in against:
        if not data and (Path(way).suffix == ".parquet" or Path(way).expanduser().is_dir()):
            raise wrong_use(
                "an evaluation of ours, whose pictures have other names than the file's",
                place=way,
                cure="name the dataset that both are of: --data DATASET",
            )


def _ours(scored: "Scored", data: str, split: str, answer: str | None) -> _Ours:
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.evaluation.imported import items_of

    workspace = open_workspace()
    dataset = open_dataset(workspace, data)
    items, told = items_of(dataset, split, scored)
    return _Ours(workspace, dataset.reference, items, told, answer)


def _compare(scored: "Scored", way: str, ours: _Ours | None, rivals: "list[Scored]") -> "Compared":
    """With an evaluation of ours, or with another method's file, which is added to the rivals."""
    from finedefics.evaluation.across import compare, compare_tables
    from finedefics.evaluation.predictions import read_predictions
    from finedefics.evaluation.scored import ANSWERS, score

    if ours is not None:
        from finedefics_platform.evaluation.imported import evaluated_items, is_evaluation

        if is_evaluation(ours.workspace, way):
            theirs = evaluated_items(ours.workspace, way, ours.answer, ANSWERS[scored.parse])
            return compare_tables(ours.items, theirs, data=ours.reference, names=(scored.file.name, way))
    rivals.append(score(read_predictions(way), scored.parse))
    return compare(scored, rivals[-1])


def _short(scored: "Scored") -> dict[str, Any]:
    """Of the other parse, what differs."""
    names = ("accuracy", "unparsed", "ci95", "ci95_clustered", "near_chance")
    return {name: value for name, value in scored.told().items() if name in names}


def _show_scored(out: Reporter, scored: Sequence["Scored"]) -> None:
    columns = ("file", "parse", "accuracy %", "95 % by picture", "95 % by category", "items", "unparsed")
    out.table("Replies of others", columns, [_row(one) for one in scored])


def _row(scored: "Scored") -> tuple[object, ...]:
    found, wide = scored.accuracy, scored.clustered
    return (
        escape(scored.file.name),
        scored.parse,
        f"{100 * found.mean:.2f}",
        _interval(found.low, found.high),
        f"{_interval(wide.low, wide.high)} ({wide.clusters})",
        found.n,
        scored.unparsed,
    )


def _show_ours(out: Reporter, ours: _Ours | None) -> None:
    if ours is None:
        return
    told = ours.told
    out.say(f"{told['matched']} of {told['items']} questions have their picture in {escape(ours.reference)}")
    for reason, number in told["unmatched"].items():
        out.say(f"[yellow]{number} left out[/]: {escape(reason)}")


def _show_seeds(out: Reporter, seeds: "Mapping[str, Seeds]") -> None:
    for data, found in seeds.items():
        spread = f" [{100 * found.low:.2f}, {100 * (found.high or 0):.2f}]" if found.low is not None else ""
        mean = f"{100 * found.mean:.2f} %{spread}"
        out.say(f"{escape(data)}: {found.n} files on the same questions: mean {mean}")


def _show_compared(out: Reporter, compared: Sequence["Compared"], told: Sequence[Mapping[str, Any]]) -> None:
    if not compared:
        return
    columns = ["data", "against", "points", "95 % by picture", "95 % by category", "gained, lost"]
    columns.append("McNemar p")
    rows = []
    for one, row in zip(compared, told, strict=True):
        found, wide = one.difference, one.clustered
        cells = [escape(one.data), escape(one.files[1]), f"{100 * found.mean:+.2f}"]
        cells += [_interval(found.low, found.high), f"{_interval(wide.low, wide.high)} ({wide.clusters})"]
        cells += [f"{one.gained}, {one.lost}", f"{one.p:.2g}"]
        rows.append([*cells, f"{row['p_holm']:.2g}"] if len(told) > 1 else cells)
    holm = [f"Holm's over {len(told)}"] if len(told) > 1 else []
    out.table("Differences on the same questions", [*columns, *holm], rows)
    for one in compared:
        if left := one.only_first + one.only_second:
            out.say(
                f"[yellow]{left} left out[/]: {one.only_first} questions are in {escape(one.files[0])} "
                f"alone, {one.only_second} in {escape(one.files[1])} alone"
            )


def _on_few(scored: Sequence["Scored"]) -> list[str]:
    return [
        f"{one.file.name}: {one.clustered.clusters} categories are few: the interval by category is rough"
        for one in scored
        if one.clustered.few
    ]


def _interval(low: float | None, high: float | None) -> str:
    return "none" if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}"


def _write(place: str, table: Any) -> None:
    import pyarrow.parquet as pq

    path = Path(place).expanduser()
    if path.exists():
        raise wrong_use(
            "there is a file already", place=str(path), cure="give a new name, or remove it first"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    except OSError as error:
        raise FinedeficsError(
            f"cannot be written ({error.strerror})", place=str(path), cure="give a path you may write to"
        ) from error

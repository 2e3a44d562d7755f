"""What `finedefics evaluate` prints beside accuracies: categories, rotations, free names, the unknown."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from .console import Reporter

if TYPE_CHECKING:
    import pyarrow as pa

    from finedefics_platform.evaluation.items import Evaluated

SHORT = 3  # categories and pairs of an answer that are shown where nobody asked for all
_KEPT = 50  # pairs of an answer that a machine gets


def show_details(
    out: Reporter, done: "Evaluated", names: Mapping[str, str], *, per_category: bool
) -> dict[str, Any]:
    """Print them; returns ``categories`` and ``confused`` by answer, as a machine gets them.

    Args:
        names: of the categories, by id.
        per_category: whether every category is shown for every answer, or the hardest few of the answer that
            is most often right.
    """
    found = _of_categories(done)
    shown = list(found["categories"]) if per_category else [_most_accurate(done.items())]
    _show_categories(out, found["categories"], names, shown, None if per_category else SHORT)
    _show_confused(out, found["confused"], names, shown, _KEPT if per_category else SHORT)
    _show_rotations(out, done.summary.get("rotations") or {})
    _show_open_set(out, done.summary.get("open_set") or {})
    _show_unknown(out, done.summary.get("unknown") or {})
    return found


def show_probes(out: Reporter, probes: Mapping[str, Any]) -> None:
    """A table of what probes read from object embeddings before and after training."""
    rows = []
    for one in probes["differences"]:
        before, after = (
            probes["tables"][name][one["answer"]][one["group"]]["accuracy"] for name in ("base", "tuned")
        )
        shares = [_percent(value) for value in (before, after)]
        gained = f"{100 * one['mean']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"
        rows.append([one["answer"], one["group"], *shares, gained, str(one["n"])])
    columns = ["probe", "group", "base %", "tuned %", "difference, 95 % interval", "pictures"]
    out.table("probes of object embeddings, before and after training", columns, rows)


def _of_categories(done: "Evaluated") -> dict[str, Any]:
    from finedefics.evaluation.categories import by_category, confused, scopes_of

    items = done.items()
    scopes = scopes_of(items)
    return {
        "categories": {answer: by_category(items, answer, scope) for answer, scope in scopes.items()},
        "confused": {answer: confused(items, answer, scope, _KEPT) for answer, scope in scopes.items()},
    }


def _most_accurate(items: "pa.Table") -> str:
    """Of the answers among all categories, or among options where there are no others."""
    from finedefics.evaluation.categories import scopes_of

    scopes = scopes_of(items)
    frame = items.select(["answer", "scope", "correct"]).to_pandas()
    right = frame.groupby(["answer", "scope"])["correct"].mean()
    wide = [answer for answer, scope in scopes.items() if scope == "all"] or list(scopes)
    return max(wide, key=lambda answer: float(right[answer, scopes[answer]]))


def _show_categories(
    out: Reporter,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    names: Mapping[str, str],
    shown: Sequence[str],
    most: int | None,
) -> None:
    rows = []
    for answer in shown:
        for cell in found[answer][:most]:
            name = escape(names.get(cell["category_id"], cell["category_id"]))
            between = f"{_percent(cell['low'])} to {_percent(cell['high'])}"
            unread = str(cell["unparsed"]) if cell["unparsed"] else ""
            shares = [_percent(cell["accuracy"]), between, str(cell["n"]), unread]
            rows.append([answer, name, cell["group"], *shares])
    title = "categories" if most is None else "the best answer's hardest categories (all: --per-category)"
    columns = ["answer", "category", "group", "accuracy %", "95 % interval", "pictures", "unparsed"]
    out.table(title, columns, rows)


def _show_confused(
    out: Reporter,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    names: Mapping[str, str],
    shown: Sequence[str],
    most: int,
) -> None:
    rows = []
    for answer in shown:
        for pair in found[answer][:most]:
            said = [escape(names.get(pair[key], pair[key])) for key in ("truth", "predicted")]
            rows.append([answer, *said, f"{pair['count']} of {pair['of']}"])
    if rows:
        out.table("most often confused", ["answer", "category", "taken for", "pictures"], rows)


def _show_rotations(out: Reporter, found: Mapping[str, Any]) -> None:
    rows = []
    for answer, told in found.items():
        each = " / ".join(_percent(one["accuracy"]) for one in told["by_rotation"])
        chosen, truth = (_shares(told["positions"], key) for key in ("chosen", "truth"))
        test = told["chi_square"]
        probability = f"{test['p']:.2g}" if test else ""
        shares = [_percent(told["accuracy"]), each, _percent(told["consistency"])]
        rows.append([answer, *shares, chosen, truth, probability])
    if rows:
        orders = max(told["orders"] for told in found.values())
        out.table(
            f"options in {orders} orders: is a choice one of content, or of place?",
            ["answer", "accuracy %", "by order", "consistent %", "chosen %", "truth %", "chi-square p"],
            rows,
        )


def _shares(positions: Sequence[Mapping[str, Any]], key: str) -> str:
    total = sum(one[key] for one in positions) or 1
    return ", ".join(f"{one['letter']} {100 * one[key] / total:.0f}" for one in positions)


def _show_open_set(out: Reporter, found: Mapping[str, Any]) -> None:
    for answer, told in list(found.items())[:1]:  # they share the reply
        shares = [
            f"{rule} {_percent(cell['accuracy'])} % ({_percent(cell['low'])} to {_percent(cell['high'])})"
            for rule, cell in told.items()
        ]
        out.say(f"{answer}: the free reply is the name: {', '.join(shares)}")


def _show_unknown(out: Reporter, found: Mapping[str, Any]) -> None:
    rows = []
    for answer, told in found.items():
        chosen = told["chosen_on"]
        cells = [f"{told['aurc']:.3f}", None, None, None, None]
        if chosen:
            risk = "" if told["risk"] is None else _percent(told["risk"])
            on = f"{chosen['pictures']} of {chosen['split']}, {100 * chosen['target']:.0f} % answered"
            cells[1:] = [f"{told['threshold']:.4g}", _percent(told["coverage"]), risk, on]
        rows.append([answer, *cells])
    if rows:
        columns = ["answer", "AURC", "threshold", "answered %", "wrong of those %", "chosen on"]
        out.table("unknown: below a threshold nothing is named", columns, rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"

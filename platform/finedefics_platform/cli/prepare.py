"""`finedefics data prepare`: from a folder of photographs to a dataset that can be trained on, in one go."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .console import Reporter, reporter
from .inspecting import PICTURES, write_sheet

if TYPE_CHECKING:
    from finedefics.errors import FinedeficsError
    from finedefics_platform.data.inspection import Inspection
    from finedefics_platform.data.preparing import Prepared
    from finedefics_platform.data.store import Dataset

ALLOW_REJECTED = 0.5  # share of the pictures; more says that the source is not what it is taken for
_SHOWN = 6  # of anything in one line


def prepare(
    source: Annotated[
        str, typer.Argument(help="A folder, an archive, a table or a URI of pictures, in any known layout.")
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the dataset; a version of it is added.")],
    reader: Annotated[
        str, typer.Option("--reader", help="How the source is laid out; auto: found by looking.")
    ] = "auto",
    columns: Annotated[
        str, typer.Option("--columns", help="Of a table: image=NAME,label=NAME,… (see `data ingest`).")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Decides the split where the source has none.")] = 0,
    allow_rejected: Annotated[
        float,
        typer.Option("--allow-rejected", min=0, max=1, help="Share of pictures that may be refused."),
    ] = ALLOW_REJECTED,
    describer: Annotated[
        str | None,
        typer.Option("--describer", help="As of `data describe`; default: the best without a model."),
    ] = None,
    miner: Annotated[
        str | None, typer.Option("--miner", help="As of `data mine`; default: the best that the data allows.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option("--embedder", help="As of `data mine`, such as clip:MODEL or vision:MODEL.")
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", help="Where the contact sheet goes; default: into the workspace.")
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="On the contact sheet.")] = PICTURES,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Ingest, describe, mine and inspect pictures; each step is skipped where it was done before.

    Where nothing is known to describe or mine from, it goes on with what there is, and says so.

    Example: `finedefics data prepare ~/pictures/parts --name parts`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.preparing import prepare as run
    from finedefics_platform.data.sources import parse_columns

    from .mine import tuned_folder
    from .next_steps import after_mine

    out = reporter(json)
    workspace = open_workspace()
    reading = {
        "reader": reader,
        "columns": parse_columns(columns),
        "seed": seed,
        "allow_rejected": allow_rejected,
    }
    made = run(
        workspace,
        name,
        source,
        reading=reading,
        describer=describer,
        miner=miner,
        embedder=None if embedder is None else tuned_folder(workspace, embedder),
        progress=out,
    )
    place = html or (workspace.sheets / f"{made.dataset.name}.html").uri
    sheet = write_sheet(made.dataset, made.inspection, place, pictures, progress=out)
    _show(out, made)
    out.say(f"contact sheet: {escape(sheet)}")
    following = after_mine(made.dataset)
    out.say(f"next: {escape(following)}")
    if following.startswith("finedefics init"):
        out.say(f"then: {escape(_then(made.dataset))}")
    out.done(
        dataset=made.dataset.reference,
        path=str(made.dataset.root),
        rows=made.inspection.tables,
        pictures=made.inspection.pictures,
        described=made.inspection.described,
        undescribed=None if made.undescribed is None else made.undescribed.thing,
        unmined=None if made.unmined is None else made.unmined.thing,
        quarantined=made.inspection.quarantined,
        html=sheet,
        next=following,
    )


def _then(dataset: "Dataset") -> str:
    """What follows on the first experiment, as far as the data goes."""
    from finedefics_platform.evaluation.checks import evaluable_splits

    train = f"finedefics train {dataset.name}.yaml"
    splits = evaluable_splits(dataset)
    if not splits:
        return f"{train}; nothing is held out that could judge it"
    split = "" if splits[0] == "test" else f" --split {splits[0]}"
    return f"{train}, and finedefics evaluate RUN --data {dataset.name}{split} (RUN is what it prints)"


def _show(out: Reporter, made: "Prepared") -> None:
    found = made.inspection
    out.say(f"[bold green]{made.dataset.reference}[/]")
    splits = ", ".join(f"{s.split} {s.labelled + s.unlabelled}" for s in found.splits)
    unlabelled = sum(split.unlabelled for split in found.splits)
    counted = f"{found.pictures} pictures of {found.categories} categories"
    out.say(f"  {counted}: {splits}; {unlabelled} without a label")
    for reason, number in found.quarantined.items():
        example = escape(found.quarantined_examples[reason][0])
        out.say(f"  [yellow]{number} in quarantine[/]: {escape(reason)}, such as {example}")
    if near := found.near_duplicates.held_out_like_train:
        out.say(f"  [yellow]{near} held-out pictures look like a training picture[/]: see the contact sheet")
    _show_descriptions(out, found, made.undescribed)
    _show_negatives(out, found, made.unmined)


def _show_descriptions(out: Reporter, found: "Inspection", undescribed: "FinedeficsError | None") -> None:
    if undescribed is not None:
        out.say(f"  [yellow]not described[/]: {escape(undescribed.thing)}; {escape(undescribed.cure)}")
        return
    told = found.provenance["descriptions"]
    by = escape(str(told.get("called") or told.get("describer")))
    out.say(f"  {found.described} of {found.pictures} described by {by}, {len(found.attributes)} attributes")
    if told.get("of") == "category":
        out.say("    by what is known of their category, whether or not a picture shows it")
    if usage := told.get("usage"):
        tokens = f"{usage['prompt_tokens']} tokens in prompts, {usage['answer_tokens']} in answers"
        out.say(f"    {usage['requests']} answers, {usage['kept_before']} kept before; {tokens}")
        if uncounted := usage.get("uncounted"):
            out.say(f"    [yellow]the endpoint did not count the tokens of {uncounted} answers[/]")
    for one in found.attributes[:_SHOWN]:
        values = ", ".join(f"{value} {number}" for value, number in one.values[:_SHOWN])
        out.say(f"    {escape(one.name)}: {100 * one.coverage:.0f} % of the described; {escape(values)}")
    if (more := len(found.attributes) - _SHOWN) > 0:
        out.say(f"    … and {more} more")


def _show_negatives(out: Reporter, found: "Inspection", unmined: "FinedeficsError | None") -> None:
    if unmined is not None:
        out.say(f"  [yellow]no similar categories[/]: {escape(unmined.thing)}; {escape(unmined.cure)}")
        return
    told = found.provenance["negatives"]
    why = f" ({told['why']})" if "why" in told else ""
    by = told.get("chosen") or told["miner"]
    out.say(f"  similar categories by {escape(str(by) + why)}: at most {told['most']} a picture")
    if without := told["without_candidates"]:
        out.say(f"  [yellow]{without} pictures have none[/]: too little is known of them")
    for category, others in list(found.nearest.items())[:_SHOWN]:
        out.say(f"    {escape(category)} is most like {escape(', '.join(others)) or 'nothing known'}")

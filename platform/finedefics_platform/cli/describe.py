"""`finedefics data describe`: attributes and a description of every picture, or texts of categories."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .console import Reporter, reporter

if TYPE_CHECKING:
    from finedefics_platform.data.describing import Estimate, Prices
    from finedefics_platform.data.store import Dataset

_ASKING = "When a model is asked"
_LOCAL = "A local model (transformers:)"
_SHOWN = 12  # names in one line; --json has all


def describe(
    dataset: Annotated[str, typer.Argument(help="A dataset: name, name@digest, or the path of a version.")],
    describer: Annotated[
        str | None,
        typer.Option(
            "--describer",
            help="annotations, categories, file:PATH, openai:MODEL, transformers:MODEL, names:openai:MODEL, "
            "a .py file, or one that a package brings. Default: the best that the data has itself.",
        ),
    ] = None,
    attributes: Annotated[
        str | None,
        typer.Option(
            help="Names to ask for, comma-separated. Default: those of categories, else the model is asked.",
            rich_help_panel=_ASKING,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help='What is in the pictures ("bird"), where categories have no super-category.',
            rich_help_panel=_ASKING,
        ),
    ] = None,
    hide_names: Annotated[
        bool,
        typer.Option(
            "--hide-names/--show-names",
            help="Take names of categories out of what the model says.",
            rich_help_panel=_ASKING,
        ),
    ] = True,
    wording: Annotated[
        str,
        typer.Option(
            help="fixed: attributes are put into words in one way. model: by the model, once a set of them.",
            rich_help_panel=_ASKING,
        ),
    ] = "fixed",
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Tell requests, tokens and cost; ask nothing.", rich_help_panel=_ASKING
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Ask about so many pictures only, the first ones.", rich_help_panel=_ASKING),
    ] = None,
    allow_failed: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of questions that may get no usable answer.", rich_help_panel=_ASKING
        ),
    ] = 0.05,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests in flight.", rich_help_panel=_ASKING)
    ] = 16,
    deadline: Annotated[
        float, typer.Option(min=0.1, help="Seconds a request may take.", rich_help_panel=_ASKING)
    ] = 120.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Of a request that fails for now (429, 5xx).", rich_help_panel=_ASKING)
    ] = 5,
    image_edge: Annotated[
        int,
        typer.Option(
            min=28, help="Longest edge of a picture that is sent, in pixels.", rich_help_panel=_ASKING
        ),
    ] = 1024,
    price_in: Annotated[
        float, typer.Option(min=0, help="Price of a million prompt tokens.", rich_help_panel=_ASKING)
    ] = 0.0,
    price_out: Annotated[
        float, typer.Option(min=0, help="Price of a million answer tokens.", rich_help_panel=_ASKING)
    ] = 0.0,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="names: replace what categories have.", rich_help_panel=_ASKING),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Workers that load the model.", rich_help_panel=_LOCAL)
    ] = 1,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0, help="Fractions share one. Default: one where the cluster has any.", rich_help_panel=_LOCAL
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures that a worker answers together.", rich_help_panel=_LOCAL)
    ] = 8,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Give every picture its attributes and description; `names:` gives categories theirs.

    openai: asks the endpoint in OPENAI_BASE_URL with the key in OPENAI_API_KEY. Every answer is kept as it
    arrives: what was answered is never asked again, whoever was killed meanwhile.

    Example: `finedefics data describe birds`

    Example: `finedefics data describe birds --describer openai:qwen2.5-vl-7b --estimate`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.describing import Prices, Settings, estimate_of
    from finedefics_platform.data.describing import describe as run

    from .next_steps import after_describe, after_ingest

    out = reporter(json)
    options: dict[str, object] = {
        "attributes": tuple(name.strip() for name in (attributes or "").split(",") if name.strip()),
        "kind": kind,
        "hide_names": hide_names,
        "wording": wording,
        "edge": image_edge,
        "concurrency": concurrency,
        "deadline": deadline,
        "retries": retries,
        "batch": batch,
    }
    settings = Settings(options, limit, allow_failed, overwrite, workers, gpus_per_worker)
    prices = Prices(price_in, price_out) if price_in or price_out else None
    if estimate:
        found = estimate_of(
            open_workspace(),
            dataset,
            describer or "annotations",
            settings=settings,
            prices=prices,
            progress=out,
        )
        _show_estimate(out, found)
        return
    made = run(open_workspace(), dataset, describer=describer, settings=settings, progress=out)
    of_categories = (describer or "").startswith("names:")
    told = made.manifest["provenance"]["categories" if of_categories else "descriptions"]
    fields = _show_categories(out, told) if of_categories else _show_pictures(out, made, told)
    fields |= _show_usage(out, told.get("usage"), prices)
    rows = {name: table["rows"] for name, table in sorted(made.manifest["tables"].items())}
    out.say(f"[green]{made.reference}[/]: " + ", ".join(f"{n} {name}" for name, n in rows.items()))
    out.say(f"next: {escape(after_ingest(made) if of_categories else after_describe(made))}")
    out.done(dataset=made.reference, path=str(made.root), rows=rows, **fields)


def _show_pictures(out: Reporter, made: "Dataset", told: dict[str, Any]) -> dict[str, Any]:
    if told["of"] == "category":
        out.say("described by categories: what is known of the class, whether or not a picture shows it")
    if told["coverage"]:
        vocabulary = told["vocabulary"]
        rows = [[escape(name), f"{share:.1%}", vocabulary[name]] for name, share in told["coverage"].items()]
        out.table("Attributes", ["attribute", "pictures", "values"], rows)
    _show_wordings(out, made)
    if told["without_description"]:
        out.say(f"[yellow]{told['without_description']} pictures have no description[/]")
        for reason, count in told["reasons"].items():
            out.say(f"  {count}: {escape(reason)}")
    if left := told.get("rows_without_picture"):
        some = escape(", ".join(told["for_example"]))
        out.say(f"[yellow]{left} rows of the file name no picture here[/]: {some}")
    if hidden := told.get("names_hidden"):
        out.say(f"{hidden} values held a category's name, which was taken out")
    shown = ("without_description", "coverage", "reasons", "rows_without_picture", "names_hidden", "called")
    return {name: told[name] for name in shown if name in told}


def _show_wordings(out: Reporter, made: "Dataset") -> None:
    """Which wordings were taken for one value: a user may disagree."""
    if not made.has("vocabulary"):
        return
    joined = [row for row in made.table("vocabulary").to_pylist() if len(row["said"] or ()) > 1]
    joined.sort(key=lambda row: -row["pictures"])
    rows = []
    for row in joined[:_SHOWN]:
        others = [text for text in row["said"] if text != row["value"]]
        more = f" … and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        rows.append(
            [escape(row["attribute"]), escape(row["value"]), escape(", ".join(others[:_SHOWN])) + more]
        )
    if rows:
        out.say(f"{len(joined)} values were said in several ways; the table `vocabulary` has all")
        out.table("Wordings taken for one value", ["attribute", "value", "also said as"], rows)


def _show_categories(out: Reporter, told: dict[str, Any]) -> dict[str, Any]:
    out.say(f"asked about {told['asked']} categories; {told['without_text']} have no text")
    for name, reason in list(told["unknown"].items())[:_SHOWN]:
        out.say(f"[yellow]{escape(name)}[/]: {escape(reason)}")
    return {name: told[name] for name in ("asked", "without_text", "unknown", "called")}


def _show_usage(out: Reporter, usage: dict[str, int] | None, prices: "Prices | None") -> dict[str, Any]:
    if usage is None:
        return {}
    uncounted = usage.get("uncounted", 0)
    cost = prices.of(usage["prompt_tokens"], usage["answer_tokens"]) if prices and not uncounted else None
    out.say(
        f"asked for this version: {usage['requests']} answers, {usage['kept_before']} were kept before; "
        f"tokens: {usage['prompt_tokens']} in prompts, {usage['answer_tokens']} in answers" + _money(cost)
    )
    if uncounted:
        out.say(f"[yellow]the endpoint did not count the tokens of {uncounted} answers[/]: no cost is known")
    return {"usage": usage, "cost": cost}


def _show_estimate(out: Reporter, found: "Estimate") -> None:
    most = "at most " if found.sentences else ""
    out.say(
        f"{most}{found.requests} requests ({found.answered} pictures are answered already), about "
        f"{found.text_tokens + found.image_tokens} prompt tokens ({found.image_tokens} of them pictures: one "
        f"for 28 x 28 pixels) and {found.answer_tokens} answer tokens" + _money(found.cost)
    )
    out.done(**found.as_dict())


def _money(cost: float | None) -> str:
    return "" if cost is None else f"; cost {cost:.2f}"

"""`finedefics models …`: registered models, and which version of them is in use."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .console import Reporter, reporter

if TYPE_CHECKING:
    from finedefics_platform.models.promotion import Change
    from finedefics_platform.models.registry import ModelVersion

app = typer.Typer(help="List, promote and roll back registered models.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Name = Annotated[str, typer.Argument(help="The registered model.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; default: your login name.")]


@app.command("list")
def list_command(json: Json = False) -> None:
    """List every version with its aliases, figures and who promoted it.

    Example: `finedefics models list`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.registry import versions

    out = reporter(json)
    found = versions(open_workspace())
    for version in found:
        out.event("model", **_fields(version))
    rows = [
        (
            version.reference,
            ", ".join(version.aliases),
            "\n".join(_figures(version)),
            version.tags.get("dataset_digest"),
            version.run_id[:12],
            _promoted(version),
        )
        for version in found
    ]
    if found:
        out.table("Models", ("version", "alias", "accuracy", "dataset", "run", "promoted"), rows)
    else:
        out.say("No registered models yet: `finedefics evaluate RUN --register NAME` makes one.")
    out.done(versions=len(found))


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="name@alias, name/version, or name (its champion).")],
    json: Json = False,
) -> None:
    """Show one version and the history of its model.

    Example: `finedefics models show birds@candidate`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.promotion import history
    from finedefics_platform.models.registry import get_version

    out, workspace = reporter(json), open_workspace()
    version = get_version(workspace, reference)
    events = history(workspace, version.name)
    out.event("model", **_fields(version))
    for entry in events:
        out.event("history", **entry)
    out.say(f"[bold]{version.reference}[/] {' '.join(f'@{alias}' for alias in version.aliases)}")
    facts = {key: value for key, value in version.tags.items() if key != "evaluation"}
    rows = [("run", version.run_id), *sorted(facts.items()), *(("accuracy", f) for f in _figures(version))]
    out.table("", ("what", "value"), [(escape(key), escape(value)) for key, value in rows])
    if events:
        columns = ("when", "what", "version", "before", "who", "why")
        out.table("History", columns, [_history_row(entry) for entry in events])
    out.done(reference=version.reference)


@app.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version number, or an alias such as candidate.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.")],
    minimum_accuracy: Annotated[float, typer.Option(min=0, max=1, help="Refuse accuracy below this.")] = 0.0,
    minimum_n: Annotated[int, typer.Option(min=1, help="Refuse an evaluation on fewer pictures.")] = 30,
    max_drop: Annotated[float, typer.Option(min=0, max=1, help="Loss allowed against the champion.")] = 0.05,
    only: Annotated[
        list[str] | None, typer.Option("--slice", help="What decides, such as alignment; default: all.")
    ] = None,
    force: Annotated[
        str | None, typer.Option("--force", metavar="REASON", help="Overrule the gate; recorded.")
    ] = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Make a version the champion, if the gate allows it; exit code 1 with the reasons if not.

    Example: `finedefics models promote birds candidate --reason "better on new species"`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.gate import GatePolicy
    from finedefics_platform.models.promotion import promote as carry_out
    from finedefics_platform.models.registry import get_version

    out, workspace = reporter(json), open_workspace()
    policy = GatePolicy(
        minimum_accuracy=minimum_accuracy, minimum_n=minimum_n, max_drop=max_drop, slices=tuple(only or ())
    )
    reference = f"{name}/{version}" if version.isdigit() else f"{name}@{version}"
    number = get_version(workspace, reference).version
    _tell(out, carry_out(workspace, name, number, reason=reason, policy=policy, by=by, force=force))


@app.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.")] = "rollback",
    by: By = None,
    json: Json = False,
) -> None:
    """Put the previous champion back; the present one becomes the previous.

    Example: `finedefics models rollback birds --reason "confuses gulls"`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.promotion import rollback as carry_out

    out = reporter(json)
    _tell(out, carry_out(open_workspace(), name, reason=reason, by=by))


def _tell(out: Reporter, change: "Change") -> None:
    out.event("champion", **asdict(change))
    if not change.changed:
        out.say(f"{change.name}/{change.version} is the champion already; nothing was changed.")
    else:
        before = f" (before: {change.name}/{change.before})" if change.before else ""
        out.say(f"[green]{change.name}/{change.version} is now the champion[/]{before}.")
        for reason in change.decision.reasons:
            out.say(f"  {escape(reason)}")
        if change.forced:
            out.say(f"  [yellow]The gate was overruled:[/] {escape(change.forced)}")
    out.done(name=change.name, version=change.version, changed=change.changed)


def _fields(version: "ModelVersion") -> dict[str, Any]:
    fields = {**asdict(version), "reference": version.reference, "evaluation": version.evaluation}
    fields["tags"] = {key: value for key, value in version.tags.items() if key != "evaluation"}
    return fields


def _figures(version: "ModelVersion") -> list[str]:
    from finedefics_platform.models.gate import Figures

    slices = Figures.from_evaluation(version.evaluation).slices
    return [f"{name} {part.accuracy:.3f} (n = {part.n})" for name, part in sorted(slices.items())]


def _promoted(version: "ModelVersion") -> str:
    if "promoted_by" not in version.tags:
        return ""
    return f"{version.tags['promoted_by']}, {version.tags['promoted_at'][:16].replace('T', ' ')}"


def _history_row(entry: dict[str, Any]) -> tuple[object, ...]:
    why = entry["reason"] + (f" (gate overruled: {entry['forced']})" if entry["forced"] else "")
    when = entry["at"][:16].replace("T", " ")
    return when, entry["action"], entry["version"], entry["before"], escape(entry["by"]), escape(why)

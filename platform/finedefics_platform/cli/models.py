"""`finedefics models …`: registered models, and which version of them is in use."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from .console import Reporter, reporter
from .figures import by_category
from .model_cards import card, export

if TYPE_CHECKING:
    from finedefics_platform.models.decisions import Entry, Standing
    from finedefics_platform.models.promotion import Change
    from finedefics_platform.models.registry import ModelVersion

app = typer.Typer(help="List, promote, roll back and export registered models.", no_args_is_help=True)

HISTORY = ("number", "what", "version", "who, when", "why", "decision", "figures")

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Name = Annotated[str, typer.Argument(help="The registered model.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; default: your login name.")]


@app.command("list")
def list_command(json: Json = False) -> None:
    """List every version with its aliases, figures and who promoted it.

    Example: `finedefics models list`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.decisions import champions, standing
    from finedefics_platform.models.registry import versions
    from finedefics_platform.tracking.runs import record_place

    out, workspace = reporter(json), open_workspace()
    found = versions(workspace)
    names = sorted({version.name for version in found})
    decided = {name: champions(workspace, name) for name in names}
    moved = [now for now in (standing(workspace, name) for name in names) if now.moved]
    for version in found:
        out.event("model", **_fields(version), champion_since=_since(decided, version))
    rows = [
        (
            version.reference,
            ", ".join(version.aliases),
            "\n".join(_figures(version)),
            version.tags.get("dataset"),
            version.tags.get("run"),
            _since(decided, version),
        )
        for version in found
    ]
    if found:
        out.table("Models", ("version", "alias", "accuracy", "trained on", "run", "promoted"), rows)
    else:
        place = escape(record_place(workspace))
        out.say(f"No registered models in {place}: `finedefics evaluate RUN --register NAME` makes one.")
    for now in moved:
        _warn(out, now)
    out.done(versions=len(found))


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="name@alias, name/version, or name (its champion).")],
    json: Json = False,
) -> None:
    """Show one version, all that it showed, and the history of its model.

    Example: `finedefics models show birds@candidate`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.decisions import standing
    from finedefics_platform.models.evidence import evidence_of
    from finedefics_platform.models.promotion import history
    from finedefics_platform.models.registry import get_version, parse, versions

    out, workspace = reporter(json), open_workspace()
    if not versions(workspace, parse(reference)[0]):
        get_version(workspace, reference)  # says which models there are
    now = standing(workspace, parse(reference)[0])
    version = get_version(workspace, reference)
    events = history(workspace, version.name)
    out.event("model", **_fields(version))
    for entry in events:
        out.event("history", **entry)
    out.say(f"[bold]{version.reference}[/] {' '.join(f'@{alias}' for alias in version.aliases)}")
    facts = {key: value for key, value in version.tags.items() if not key.startswith("evidence.")}
    rows = [("MLflow run", version.run_id), *sorted(facts.items())]
    out.table("", ("what", "value"), [(escape(key), escape(value)) for key, value in rows])
    for one in evidence_of(version):
        asked = f"at most {one.limit} pictures" if one.limit else "all pictures"
        out.table(
            f"On {one.ground}, {asked}",
            ("answer", "accuracy", "95 % by picture", "95 % by category", "pictures"),
            [
                (
                    f"{answer}/{group}",
                    f"{cell['accuracy']:.3f}",
                    f"{cell['low']:.3f} to {cell['high']:.3f}",
                    by_category(cell),
                    cell["n"],
                )
                for answer, cells in one.figures.items()
                for group, cell in cells.items()
            ],
        )
    if events:
        out.table("History", HISTORY, [_history_row(entry) for entry in events])
    if now.moved:
        _warn(out, now)
    out.done(reference=version.reference)


@app.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version number, or an alias such as candidate.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.")],
    gate: Annotated[
        Path | None,
        typer.Option("--gate", help="YAML file of rules; default: that of jobs/gates/default.yaml."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the gate, such as rules.minimum.accuracy=0.6."),
    ] = None,
    force: Annotated[
        str | None, typer.Option("--force", metavar="REASON", help="Overrule the gate; recorded.")
    ] = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Make a version the champion, if every rule of the gate lets it through; exit code 1 with the reasons if
    not. A gate's file names rules and their settings; the verdicts go into the log of decisions.

    Example: `finedefics models promote birds candidate --reason "better on new species"`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.gate import load_gate
    from finedefics_platform.models.promotion import promote as carry_out
    from finedefics_platform.models.registry import get_version

    out, workspace = reporter(json), open_workspace()
    asked = load_gate(gate, set_ or [])
    reference = f"{name}/{version}" if version.isdigit() else f"{name}@{version}"
    number = get_version(workspace, reference).version
    _tell(out, carry_out(workspace, name, number, reason=reason, gate=asked, by=by, force=force))


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


@app.command()
def history(
    name: Annotated[str, typer.Argument(help="The registered model; name/3 for one version of it.")],
    json: Json = False,
) -> None:
    """Show every decision on a model: who, when and why, the gate's answer, and the figures it rested on.

    A decision is void where somebody else's came first; forced where the gate was overruled. --json has the
    verdict of each rule with its settings.

    Example: `finedefics models history birds`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.decisions import standing
    from finedefics_platform.models.promotion import history as log
    from finedefics_platform.models.registry import check_name, get_version, versions

    out, workspace = reporter(json), open_workspace()
    only = get_version(workspace, name) if "/" in name or "@" in name else None
    name = only.name if only else name
    check_name(name)
    if only is None and not versions(workspace, name):
        get_version(workspace, name)  # says which models there are
    told = [entry for entry in log(workspace, name) if only is None or entry["version"] == only.version]
    for entry in told:
        out.event("history", **entry)
    if told:
        out.table(f"Decisions on {escape(name)}", HISTORY, [_history_row(entry) for entry in told])
    else:
        out.say(f"Nobody has decided on {name} yet: `finedefics models promote {name} VERSION --reason …`.")
    now = standing(workspace, name)
    if now.moved:
        _warn(out, now)
    out.done(name=name, decisions=len(told))


app.command()(export)
app.command()(card)


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


def _warn(out: Reporter, now: "Standing") -> None:
    from finedefics_platform.models.decisions import cure_of

    out.event("moved_by_hand", model=now.name, alias=now.alias, champion=now.champion, cure=cure_of(now))
    out.say(f"[yellow]{now.name}: {now.moved}[/]; {cure_of(now)}")


def _fields(version: "ModelVersion") -> dict[str, Any]:
    from finedefics_platform.models.evidence import evidence_of

    fields = {**asdict(version), "reference": version.reference}
    fields["tags"] = {key: value for key, value in version.tags.items() if not key.startswith("evidence.")}
    fields["evidence"] = [asdict(one) for one in evidence_of(version)]
    return fields


def _figures(version: "ModelVersion") -> list[str]:
    from finedefics_platform.models.evidence import figures

    return _cells(figures(version))


def _since(decided: "dict[str, dict[int, Entry]]", version: "ModelVersion") -> str:
    entry = decided[version.name].get(version.version)
    return f"{entry.by}, {entry.at[:16].replace('T', ' ')}" if entry else ""


def _history_row(entry: dict[str, Any]) -> tuple[object, ...]:
    what = entry["action"] + (f" (before: {entry['before']})" if entry["before"] else "")
    who = f"{entry['by']}, {entry['at'][:16].replace('T', ' ')}"
    return (
        entry["number"],
        what,
        entry["version"],
        escape(who),
        escape(entry["reason"]),
        escape(_decided(entry)),
        escape("\n".join(_cells(entry["figures"]))),
    )


def _decided(entry: dict[str, Any]) -> str:
    """What the gate said, and what became of it."""
    decision = entry["decision"]
    gate = f" by the gate {decision['gate']['name']}" if decision.get("gate") else ""
    failed = [one["rule"] for one in decision.get("verdicts", ()) if not one["passed"]]
    said = f"allowed{gate}" if decision.get("allowed", True) else f"refused{gate}: {', '.join(failed)}"
    if entry["action"] != "promote":
        said = "no gate"
    said += f"; forced: {entry['forced']}" if entry["forced"] else ""
    return f"void, another was faster ({said})" if entry["void"] else said


def _cells(figures: Mapping[str, Any]) -> list[str]:
    return [
        f"{answer}/{group} {cell['accuracy']:.3f} (n = {cell['n']})"
        for answer, cells in figures.items()
        for group, cell in cells.items()
        if isinstance(cell, Mapping)
    ]

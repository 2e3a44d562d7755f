"""`finedefics data list` and `data show`: which datasets there are, and the versions of one."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .console import reporter
from .units import size

if TYPE_CHECKING:
    from finedefics_platform.data.listing import Version

_COMPANIONS = ("descriptions", "negatives", "labels")

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def list_command(json: Json = False) -> None:
    """List the datasets of the workspace: newest version, pictures, what they have, size.

    Example: `finedefics data list`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.listing import list_datasets

    out, workspace = reporter(json), open_workspace()
    found = list_datasets(workspace)
    rows: list[tuple[object, ...]] = []
    for each in found:
        newest, count = each.latest, len(each.versions) + len(each.unread)
        told = {"name": each.name, "bytes": each.bytes, "versions": count}
        out.event("dataset", **told, latest=asdict(newest) if newest else None)
        if newest is None:
            rows.append((escape(each.name), "cannot be read", count, *[""] * 4, size(each.bytes)))
            continue
        has = ", ".join(name for name in _COMPANIONS if name in newest.tables)
        rows.append(
            (
                escape(each.name),
                newest.reference.partition("@")[2],
                count,
                _pictures(newest),
                newest.categories,
                has,
                escape(newest.makers.get("describer", "")),
                size(each.bytes),
            )
        )
    if found:
        columns = ("dataset", "latest", "versions", "pictures", "categories", "has", "describer", "size")
        out.table("Datasets", columns, rows)
    else:
        out.say(f"No datasets in {escape(workspace.root.uri)}: `finedefics data prepare FOLDER` makes one.")
    out.done(datasets=len(found))


def show(
    dataset: Annotated[str, typer.Argument(help="Its name, or name@digest.")],
    json: Json = False,
) -> None:
    """Show a dataset's versions, or the tables of one (name@digest, or name@latest).

    A version's own size is that of the files that no other version shares.

    Example: `finedefics data show birds`

    Example: `finedefics data show birds@latest`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.listing import list_versions
    from finedefics_platform.data.store import open_dataset

    out, workspace = reporter(json), open_workspace()
    name, _, wanted = dataset.partition("@")
    opened = open_dataset(workspace, name if wanted in ("", "latest") else dataset)
    listed = list_versions(opened.root.parent)
    if not wanted:
        for version in listed.versions:
            out.event("version", **asdict(version))
        rows = [
            (
                version.reference.partition("@")[2] + (" (latest)" if version.latest else ""),
                f"{version.made.astimezone():%Y-%m-%d %H:%M}",
                version.by,
                version.parent,
                _pictures(version),
                ", ".join(name for name in _COMPANIONS if name in version.tables),
                size(version.bytes),
                size(version.own_bytes),
            )
            for version in listed.versions
        ]
        columns = ("version", "made", "by", "from", "pictures", "has", "size", "own")
        out.table(f"{escape(listed.name)}: versions, {size(listed.bytes)}", columns, rows)
        out.done(dataset=listed.name, versions=len(listed.versions), bytes=listed.bytes)
        return
    (version,) = (each for each in listed.versions if each.reference == opened.reference)
    out.event("version", **asdict(version))
    out.say(f"[bold]{version.reference}[/]{' (latest)' if version.latest else ''} {escape(str(opened.root))}")
    out.say(f"made {version.made.astimezone():%Y-%m-%d %H:%M} by {version.by}, {_pictures(version)}")
    for kind, maker in version.makers.items():
        out.say(f"{kind}: {escape(maker)}")
    out.table("Tables", ("table", "rows"), list(version.tables.items()))
    out.say(f"{size(version.bytes)}, {size(version.own_bytes)} of it in no other version")
    out.say(f"more: finedefics data inspect {version.reference}")
    out.done(dataset=version.reference, bytes=version.bytes)


def _pictures(version: "Version") -> str:
    splits = ", ".join(f"{count} {split}" for split, count in version.pictures.items())
    without = sum(version.pictures.values()) - version.labelled
    return f"{splits}; {without} without a label" if without else splits

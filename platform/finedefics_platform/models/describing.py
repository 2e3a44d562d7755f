"""What the registry's own pages say about a model and its versions, in Markdown."""

import logging
from typing import TYPE_CHECKING

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.decisions import standing
from finedefics_platform.models.evidence import evidence_of
from finedefics_platform.models.registry import CHAMPION, ModelVersion
from finedefics_platform.tracking.mlflow_client import answered, open_client
from finedefics_platform.tracking.notes import figure_rows, figure_table

if TYPE_CHECKING:
    from finedefics_platform.models.decisions import Entry

_MADE = {"run": "run", "trained on": "dataset", "base": "base", "adapters": "adapter", "code": "code"}

log = logging.getLogger(__name__)


def model_note(name: str, latest: "Entry | None") -> str:
    """Of a registered model: who is champion and why, and how to go on."""
    champion = "There is no champion yet."
    if latest is not None:
        forced = f" The gate was overruled: {latest.forced}." if latest.forced else ""
        when = latest.at[:16].replace("T", " ")
        champion = (
            f"Champion: **{name}/{latest.version}**, since {when}, by {latest.by}: {latest.reason}.{forced}"
        )
    return f"""**{name}**: a recogniser of fine-grained categories, made with Finedefics.

{champion}

Aliases: `champion` is in use, `candidate` was registered last, `previous` was the champion before. They \
follow the log of decisions (`{name}-decisions`): a champion that is set here is not served until it is \
confirmed.

```
finedefics models show {name}
finedefics models promote {name} candidate --reason "…"
finedefics models history {name}
finedefics predict {name}@{CHAMPION} PICTURE.jpg
```
"""


def version_note(version: ModelVersion) -> str:
    """Of a version: figures with intervals, what it was made of, how to use it."""
    tags = version.tags
    rows = [
        row
        for one in evidence_of(version)
        for row in figure_rows(f"{one.ground.dataset} {one.ground.split}", one.figures)
    ]
    made = [
        ("run", "run"),
        ("trained on", "dataset"),
        ("base", "base"),
        ("adapters", "adapter"),
        ("code", "code"),
    ]
    facts = "\n".join(f"- {said}: `{tags[tag]}`" for said, tag in made if tags.get(tag))
    return f"""**{version.reference}**

{figure_table(rows)}
"labelled" are categories with a labelled training picture, "new" those known from a text or captioned \
pictures only.

{facts}

```
finedefics predict {version.reference} PICTURE.jpg
finedefics models card {version.reference}
finedefics models export {version.reference} FOLDER
```
"""


def describe_version(workspace: Workspace, version: ModelVersion) -> None:
    """Write a version's page anew; what stands elsewhere is not lost where that fails."""
    client = open_client(workspace)
    try:
        with answered(workspace):
            client.update_model_version(version.name, str(version.version), version_note(version))
    except FinedeficsError as error:
        log.warning("the page of %s was not written: %s", version.reference, error)


def describe_model(workspace: Workspace, name: str) -> None:
    """Write a model's page anew, as `describe_version`."""
    client = open_client(workspace)
    try:
        latest = standing(workspace, name).latest
        with answered(workspace):
            client.update_registered_model(name, model_note(name, latest))
    except FinedeficsError as error:
        log.warning("the page of %s was not written: %s", name, error)

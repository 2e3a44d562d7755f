"""What finished steps left, by their address: shared by all studies of a workspace."""

from collections.abc import Mapping
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location, committed
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import open_dataset
from finedefics_platform.study.plan import Plan
from finedefics_platform.study.steps import Result, Step


def record_of(workspace: Workspace, address: str) -> Location:
    """The file that a step is finished with."""
    return workspace.studies / "steps" / f"{address}.json"


def write_record(workspace: Workspace, step: Step, result: Result, seconds: float) -> dict[str, Any]:
    """Finish a step: the last thing that is done of it."""
    record = {"title": step.title, "kind": step.kind, "seconds": seconds, "result": result}
    record_of(workspace, step.address).write_json(record)
    return record


def finished(workspace: Workspace, plan: Plan) -> dict[str, dict[str, Any]]:
    """The records of the plan's finished steps, by address."""
    there = {place.name for place in (workspace.studies / "steps").children()}
    return {
        address: dict(record_of(workspace, address).read_json())
        for address in plan.steps
        if f"{address}.json" in there
    }


def to_do(workspace: Workspace, plan: Plan, records: Mapping[str, Mapping[str, Any]]) -> list[Step]:
    """The steps without which a figure is missing, in the order of the plan.

    A finished step that others still need counts only where what it left is still there.
    """
    wanted, open_ = set[str](), [a for found in plan.cells.values() for a in found if a not in records]
    while open_:
        address = open_.pop()
        if address in wanted or address not in plan.steps:
            continue
        if address in records and _stands(workspace, records[address]["result"]):
            continue
        wanted.add(address)
        open_ += plan.steps[address].needs
    return [step for address, step in plan.steps.items() if address in wanted]


def _stands(workspace: Workspace, result: Result) -> bool:
    if "dataset" in result:
        try:
            open_dataset(workspace, result["dataset"])
        except FinedeficsError:
            return False
    return "model" not in result or committed(workspace.place_of(result["model"])) is not None

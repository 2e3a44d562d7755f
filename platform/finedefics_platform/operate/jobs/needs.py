"""What a job asks of a cluster, and whether the cluster has it, can get it, or never will."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.config.experiment import Resources, load_experiment, parse_experiment
from finedefics_platform.config.job import Entrypoint, Job

Bundle = dict[str, float]  # amounts by resource, of one process: they have to be on one node


@dataclass(frozen=True)
class Group:
    """Nodes that an autoscaler can bring: what each has, and how many there can be."""

    resources: Bundle
    most: int


def bundles_of(job: Job, spec: Path) -> list[Bundle]:
    """What has to be there at once; reads the documents of the job and so checks them.

    Raises:
        FinedeficsError: a document is missing or wrong (exit code 2).
    """
    own = _entrypoint(job.entrypoint)
    file = None if job.document is None else spec.resolve().parent / Path(job.document).expanduser()
    changes = [b for a, b in zip(job.arguments, job.arguments[1:], strict=False) if a == "--set"]
    changes += [text.removeprefix("--set=") for text in job.arguments if text.startswith("--set=")]
    if file is None:
        return [own] if own else []
    if job.job == "train":
        each = [_workers(load_experiment(file, changes).resources)]
    elif job.job == "tune":
        from finedefics_platform.search.document import load_search

        search, document = load_search(file, changes)
        each = [_workers(parse_experiment(_filled(document), place=search.name).resources)]
    else:
        from finedefics_platform.study.document import load_study

        _, documents = load_study(file)
        each = [_workers(parse_experiment(_filled(d), place=name).resources) for name, d in documents.items()]
    largest = max(each, key=lambda bundles: sum(sum(b.values()) for b in bundles), default=[])
    return [own, *largest] if own else largest


def refuse_what_never_fits(
    bundles: Sequence[Bundle], nodes: Sequence[Bundle], groups: Sequence[Group], *, place: str
) -> bool:
    """Whether the nodes that are there are enough; False where an autoscaler has to bring more.

    Raises:
        FinedeficsError: they are not, and no autoscaler can bring enough.
    """
    if fits(bundles, nodes):
        return True
    could = [dict(group.resources) for group in groups for _ in range(min(group.most, len(bundles)))]
    if fits(bundles, [*nodes, *could]):
        return False
    has = told_nodes(nodes)
    if groups:
        brings = "; ".join(f"up to {group.most} × {told(group.resources)}" for group in groups)
        has += f", and its autoscaler brings {brings}"
    else:
        has += ", and nothing brings more"
    raise FinedeficsError(
        f"it asks for {told_bundles(bundles)}; the cluster has {has}",
        place=place,
        cure="ask for less (resources of the experiment, entrypoint of the job), or add such nodes",
    )


def fits(bundles: Iterable[Bundle], nodes: Iterable[Bundle]) -> bool:
    """Whether every bundle finds a node: the largest first, each where least is left over."""
    left = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda b: (-b.get("GPU", 0), -sum(b.values()))):
        roomy = [node for node in left if all(node.get(k, 0) + 1e-9 >= v for k, v in bundle.items())]
        if not roomy:
            return False
        # A node with GPUs is not filled with what needs none, as long as another has room.
        best = min(roomy, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)))
        for kind, amount in bundle.items():
            best[kind] -= amount
    return True


def nodes_of(answer: Mapping[str, Any]) -> list[Bundle]:
    """Resources of each living node, from what `/api/v0/nodes` answers."""
    rows = answer.get("data", {}).get("result", {}).get("result", [])
    return [_shown(row.get("resources_total") or {}) for row in rows if row.get("state") == "ALIVE"]


def waited_for(answer: Mapping[str, Any]) -> str:
    """What processes wait for on the cluster, from what `/api/cluster_status` answers; empty for nothing."""
    report = (answer.get("data", {}).get("clusterStatus") or {}).get("loadMetricsReport") or {}
    wanted = [(dict(bundle), count) for bundle, count in report.get("resourceDemand") or []]
    for group, count in report.get("pgDemand") or []:
        wanted += [(dict(bundle), number * count) for bundle, number in group.get("bundles", [])]
    texts = [f"{count} × {told(_shown(bundle))}" for bundle, count in wanted if _shown(bundle)]
    return ", ".join(texts)


def told(bundle: Mapping[str, float]) -> str:
    """An amount by resource, in words: ``4 CPU, 1 GPU, 2 GiB memory``."""
    parts = []
    for kind, amount in sorted(bundle.items()):
        parts.append(f"{amount / 2**30:.3g} GiB memory" if kind == "memory" else f"{amount:g} {kind}")
    return ", ".join(parts) or "nothing"


def told_bundles(bundles: Sequence[Bundle]) -> str:
    """Bundles, equal ones counted."""
    counts: dict[str, int] = {}
    for bundle in bundles:
        counts[told(bundle)] = counts.get(told(bundle), 0) + 1
    return " and ".join(f"{count} × ({text})" for text, count in counts.items()) or "nothing"


def told_nodes(nodes: Sequence[Bundle]) -> str:
    """What the nodes have."""
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}: {told_bundles(nodes)}"


def _filled(document: dict[str, Any]) -> dict[str, Any]:
    """An experiment whose data and model are filled in later, with something in their place."""
    filled = dict(document)
    filled["data"] = {"dataset": "later", **(document.get("data") or {})}
    filled["model"] = {"path": "later", **(document.get("model") or {})}
    return filled


def _entrypoint(asked: Entrypoint) -> Bundle:
    bundle = {"CPU": asked.cpus, "GPU": asked.gpus, "memory": float(asked.memory), **asked.custom}
    return {kind: amount for kind, amount in bundle.items() if amount}


def _workers(asked: Resources) -> list[Bundle]:
    each = {"CPU": asked.cpus_per_worker, "GPU": asked.gpus_per_worker}
    return [{kind: amount for kind, amount in each.items() if amount} for _ in range(asked.processes)]


def _shown(resources: Mapping[str, float]) -> Bundle:
    hidden = ("node:", "object_store", "bundle_group", "accelerator_type")
    return {k: float(v) for k, v in resources.items() if not k.startswith(hidden) and "_group_" not in k}

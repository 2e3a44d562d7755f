"""What is rendered for Kubernetes and cloud machines is valid, follows the document, and holds no secret."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import jsonschema
import pytest
import yaml
from kubernetes_schemas import check
from pydantic import BaseModel

from finedefics.errors import FinedeficsError
from finedefics_platform.cli.main import main
from finedefics_platform.config.cluster import Cluster, load_cluster
from finedefics_platform.config.section import parse_document
from finedefics_platform.operate.clusters.cloud import autoscaler_yaml
from finedefics_platform.operate.clusters.kuberay import manifests

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "cluster").glob("*.yaml"))
SECRET = {"secret": "some-secret", "key": "some-key"}
# A document in which every key has a value, whatever goes with it left to the cases below.
FULL: dict[str, Any] = {
    **yaml.safe_load((ROOT / "cluster" / "example.yaml").read_text()),
    "service_account": "runner",
    "history": {"image": "collector:1", "environment": {"S3_BUCKET": "b"}, "secrets": {"A": SECRET}},
    "gang": {"scheduler": "volcano", "queue": "q"},
}
REDIS = {"fault_tolerance": {"backend": "redis", "redis_address": "redis:6379", "redis_password": SECRET}}
VOLUME = {"storage": None, "volume": {"claim": "shared"}}
KUEUE = {"gang": None, "autoscaler": None, "kueue": {"queue": "training"}}
RULES = {"job": {"entrypoint": "a", "deletion_rules": [{"policy": "DeleteSelf", "status": "FAILED"}]}}

# key -> a value that nothing else in the document has; what must be set beside it; where that value appears
# differently, how it is written there.
CHANGES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "name": ("another", {}, None),
    "namespace": ("elsewhere", {}, None),
    "image": ("other.example.org/image:7", {}, None),
    "ray_version": ("2.61.7", {}, None),
    "token_secret": ("other-token", {}, None),
    "service_account": ("other-account", {}, None),
    "image_pull_secrets": (["registry-login"], {}, "registry-login"),
    "storage": ("gs://other/place", {}, None),
    "volume.claim": ("other-claim", VOLUME, None),
    "volume.path": ("/elsewhere", VOLUME, None),
    "tracking": ("https://mlflow.example.org", {}, None),
    "environment": ({"OTHER_VARIABLE": "x"}, {}, "OTHER_VARIABLE"),
    "secrets": (["other-secret"], {}, "other-secret"),
    "user": (4711, {}, None),
    "tls": (True, {}, {"tlsOptions": {"enabled": True}}),
    "head.cpus": (7, {}, "7"),
    "head.memory": ("77Gi", {}, None),
    "head.node_selector": ({"head": "here"}, {}, {"nodeSelector": {"head": "here"}}),
    "groups.0.name": ("other-group", {"aws": None, "gcp": None}, None),
    "groups.0.cpus": (13, {}, "13"),
    "groups.0.memory": ("99Gi", {}, None),
    "groups.0.gpus": (6, {}, "6"),
    "groups.0.gpu_resource": ("amd.com/gpu", {}, None),
    "groups.0.least": (5, {}, {"minReplicas": 5}),
    "groups.0.most": (88, {}, {"maxReplicas": 88}),
    "groups.0.spilling": ("333Gi", {}, {"sizeLimit": "333Gi"}),
    "groups.0.node_selector": ({"gpu": "here"}, {}, {"nodeSelector": {"gpu": "here"}}),
    "groups.0.tolerations": ([{"key": "k", "operator": "Exists"}], {}, {"key": "k", "operator": "Exists"}),
    "autoscaler.idle_seconds": (777, {}, {"idleTimeoutSeconds": 777}),
    "autoscaler.upscaling": ("Aggressive", {}, None),
    "autoscaler.job_start_seconds": (
        8888,
        {},
        {"name": "RAY_JOB_START_TIMEOUT_SECONDS", "value": "8888"},
    ),
    "fault_tolerance.backend": ("redis", {"fault_tolerance": {"redis_address": "redis:6379"}}, None),
    "fault_tolerance.size": ("11Gi", {}, None),
    "fault_tolerance.storage_class": ("fast", {}, None),
    "fault_tolerance.redis_address": ("redis:7000", REDIS, None),
    "fault_tolerance.redis_password.secret": ("redis-secret", REDIS, None),
    "fault_tolerance.redis_password.key": ("redis-key", REDIS, None),
    "network.operator_namespace": ("operators", {}, None),
    "network.clients": ([{"team": "birds"}], {}, {"matchLabels": {"team": "birds"}}),
    "network.prometheus_namespace": ("metrics", {}, {"kubernetes.io/metadata.name": "metrics"}),
    "kueue.queue": ("other-queue", KUEUE, None),
    "kueue.priority": ("urgent", KUEUE, None),
    "kueue.elastic": (True, KUEUE, {"kueue.x-k8s.io/elastic-job": "true"}),
    "gang.scheduler": ("yunikorn", {}, {"yunikorn.apache.org/queue": "q"}),
    "gang.queue": ("other-queue", {}, None),
    "history.image": ("collector:2", {}, None),
    "history.environment": ({"S3_BUCKET": "other-bucket"}, {}, "other-bucket"),
    "history.secrets": ({"B": {"secret": "history-secret", "key": "k"}}, {}, "history-secret"),
    "job.entrypoint": ("finedefics tune", {}, None),
    "job.cpus": (0.625, {}, None),
    "job.retries": (9, {}, {"backoffLimit": 9}),
    "job.deadline_seconds": (3333, {}, None),
    "job.keep_seconds": (4444, {}, None),
    "job.deletion_rules.0.policy": ("DeleteWorkers", RULES, None),
    "job.deletion_rules.0.status": ("SUCCEEDED", RULES, None),
    "job.deletion_rules.0.after_seconds": (555, RULES, None),
}
for _provider in ("aws", "gcp"):
    CHANGES |= {
        f"{_provider}.region": ("other-region", {}, None),
        f"{_provider}.zone": ("other-zone", {}, None),
        f"{_provider}.image": ("other-image", {}, None),
        f"{_provider}.disk_gib": (1234, {}, None),
        f"{_provider}.head": ("other-head", {}, None),
        f"{_provider}.groups": ({"gpu": "other-gpu", "cpu": "c"}, {}, "other-gpu"),
        f"{_provider}.ssh_user": ("other-user", {}, None),
        f"{_provider}.token_file": ("~/other-token", {}, None),
    }
CHANGES |= {
    "gcp.project": ("other-project", {}, None),
    "gcp.accelerators": ({"gpu": "other-accelerator"}, {}, "other-accelerator"),
}
NOT_ON_AWS = {"aws.project", "aws.accelerators"}


def merged(document: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({**document, **beside}))


def with_key(document: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    node: Any = document
    *parents, last = key.split(".")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[int(last) if isinstance(node, list) else last] = value
    return document


def rendered(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that comes of a document; all of it valid."""
    cluster = parse_document(Cluster, document, place="document")
    made = [manifest for file in manifests(cluster).values() for manifest in file]
    for manifest in made:
        check(manifest)
    for provider in ("aws", "gcp"):
        if getattr(cluster, provider) is not None:
            made.append(autoscaler_yaml(cluster, provider, place="document"))
            ray_schema().validate(made[-1])
    return made


@functools.cache
def ray_schema() -> jsonschema.Draft7Validator:
    import ray.autoscaler

    text = (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()
    return jsonschema.Draft7Validator(json.loads(text))


def holds(node: Any, value: Any) -> bool:
    """Whether the value stands somewhere in it: as a value, a key, part of a mapping or of a longer text."""
    if isinstance(node, dict):
        here = value.items() <= node.items() if isinstance(value, dict) else value in node
        return here or any(holds(inner, value) for inner in node.values())
    if isinstance(node, list):
        return any(holds(inner, value) for inner in node)
    if isinstance(node, str) and isinstance(value, str):
        return value == node if len(value) < 3 else value in node
    return type(node) is type(value) and node == value


def leaves(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    """Dotted keys of a document; of a list's items, those of the first."""
    for name, field in kind.model_fields.items():
        inner = section_of(field.annotation)
        is_list = get_origin(field.annotation) is list
        if inner is None:
            yield f"{before}{name}"
        else:
            yield from leaves(inner, f"{before}{name}.{'0.' if is_list else ''}")


def section_of(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is dict:
        return None
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def test_every_key_of_the_document_has_a_case() -> None:
    assert set(leaves(Cluster)) == CHANGES.keys() | NOT_ON_AWS


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_key_changes_what_is_rendered(key: str) -> None:
    value, beside, written = CHANGES[key]
    before = merged(FULL, beside)
    after = with_key(merged(FULL, beside), key, value)
    if key != "fault_tolerance.backend":  # what goes with redis is refused without it
        assert not holds(rendered(before), value if written is None else written)
    assert holds(rendered(after), value if written is None else written)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_render(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "render", "kuberay", str(example), "--output", str(tmp_path)]) == 0
    written = [d for file in tmp_path.iterdir() for d in yaml.safe_load_all(file.read_text())]
    assert {"RayCluster", "RayJob", "NetworkPolicy"} == {document["kind"] for document in written}
    for document in written:
        check(document)
    capsys.readouterr()
    assert main(["cluster", "render", "kuberay", str(example)]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out))


def test_every_pod_is_held_back() -> None:
    text = json.dumps(rendered(FULL))
    assert '"mode": "token"' in text
    assert '"runAsNonRoot": true' in text
    (cluster,) = (m for m in rendered(FULL) if m.get("kind") == "RayCluster")
    spec = cluster["spec"]
    for template in [spec["headGroupSpec"]["template"], *(g["template"] for g in spec["workerGroupSpecs"])]:
        (container,) = template["spec"]["containers"]
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_job_under_kueue_ends_its_cluster_and_rules_leave_it() -> None:
    def job(document: dict[str, Any]) -> Any:
        return next(m for m in rendered(document) if m.get("kind") == "RayJob")["spec"]

    assert job(merged(FULL, KUEUE))["shutdownAfterJobFinishes"] is True
    assert job(merged(FULL, RULES))["shutdownAfterJobFinishes"] is False


GROUP = {"cpus": 1, "memory": "1Gi"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"colour": "red"}, "unknown key `colour`"),
    "eighteen groups under Kueue": (
        {**KUEUE, "aws": None, "gcp": None, "groups": [{"name": f"g{n}", **GROUP} for n in range(18)]},
        "Kueue takes at most 17 groups, not 18",
    ),
    "deletion rules under Kueue": ({**KUEUE, **RULES}, "deletion_rules does not go with kueue"),
    "an autoscaler under Kueue": ({**KUEUE, "autoscaler": {}}, "kueue.elastic"),
    "gang scheduling under Kueue": (
        {**KUEUE, "gang": {"scheduler": "volcano"}},
        "gang does not go with kueue",
    ),
    "a planted secret": ({"environment": {"AWS_SECRET_ACCESS_KEY": "abc/def+ghi"}}, "is a secret"),
    "two groups of one name": ({"groups": [{"name": "cpu", **GROUP}] * 2}, "two groups are called cpu"),
    "root": ({"user": 0}, "`user` is wrong"),
    "least above most": ({"groups": [{"name": "a", **GROUP, "least": 3, "most": 2}]}, "more than most"),
    "redis without an address": ({"fault_tolerance": {"backend": "redis"}}, "needs redis_address"),
    "two workspaces": ({"volume": {"claim": "c"}}, "exclude each other"),
    "a name that Kubernetes refuses": ({"name": "Birds_1"}, "`name` is wrong"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_document_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, expected = WRONG[case]
    (file := tmp_path / "cluster.yaml").write_text(yaml.safe_dump(merged(FULL, changes)))
    assert main(["cluster", "render", "kuberay", str(file), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert expected.lower() in error.lower()
    assert len(error.strip().splitlines()) == 1
    assert "abc/def" not in error
    assert not (tmp_path / "out").exists()


def test_a_wrong_provider_or_one_that_is_not_described_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "cluster.yaml").write_text(yaml.safe_dump(merged(FULL, {"aws": None})))
    for provider, expected in (("azure", "use one of: aws, gcp"), ("aws", "no section `aws`")):
        assert main(["cluster", "render", "ray-up", str(file), "--provider", provider]) == 2
        assert expected in capsys.readouterr().err


def test_seventeen_groups_under_kueue_are_taken() -> None:
    groups = [{"name": f"g{n}", **GROUP} for n in range(17)]
    rendered(merged(FULL, {**KUEUE, "aws": None, "gcp": None, "groups": groups}))


def test_overrides_of_the_command_line_win(tmp_path: Path) -> None:
    assert load_cluster(EXAMPLES[0], ["groups.0.most=5"]).groups[0].most == 5
    with pytest.raises(FinedeficsError, match="no item"):
        load_cluster(EXAMPLES[0], ["groups.9.most=5"])

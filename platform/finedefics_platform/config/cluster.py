"""The document of a cluster: what `finedefics cluster render` writes for Kubernetes and cloud machines."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from finedefics_platform.base.secrets import is_secret
from finedefics_platform.config.documents import override_by_text, read_yaml
from finedefics_platform.config.section import Section, parse_document

KUEUE_GROUPS = 17  # Kueue takes a head and 17 groups in one workload
# Kubernetes names objects so; KubeRay adds up to 20 letters of its own to a cluster's and a group's.
DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$")]


class SecretKey(Section):
    """A value that lies in a Kubernetes secret."""

    secret: SecretName = Field(description="Name of the secret.")
    key: str = Field(description="Which of its keys.")


class Head(Section):
    """The head: Ray's control store, the job API and the autoscaler; it runs no work."""

    cpus: int = Field(2, gt=0, description="CPU cores.")
    memory: Quantity = Field("8Gi", description="Memory, as Kubernetes writes it.")
    node_selector: dict[str, str] = Field({}, description="Labels a machine must have.")


class Group(Section):
    """Worker nodes of one kind."""

    name: DnsName = Field(description="What the group is called.")
    cpus: int = Field(gt=0, description="CPU cores of a node.")
    memory: Quantity = Field(description="Memory of a node.")
    gpus: int = Field(0, ge=0, description="GPUs of a node.")
    gpu_resource: str = Field("nvidia.com/gpu", description="How Kubernetes names such a GPU.")
    least: int = Field(0, ge=0, description="Fewest nodes.")
    most: int = Field(1, gt=0, description="Most nodes.")
    spilling: Quantity = Field("50Gi", description="Disk for objects that do not fit into memory.")
    node_selector: dict[str, str] = Field({}, description="Labels a machine must have.")
    tolerations: list[dict[str, str]] = Field([], description="Taints it accepts, as Kubernetes writes them.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"group {self.name}: least ({self.least}) is more than most ({self.most})")
        return self


class Autoscaler(Section):
    """Ray's autoscaler (v2): groups grow and shrink between `least` and `most`."""

    idle_seconds: int = Field(120, gt=0, description="After this long without work a node is given back.")
    upscaling: Literal["Default", "Aggressive", "Conservative"] = Field("Default", description="How fast.")
    job_start_seconds: int = Field(
        86400, gt=0, description="How long a job may wait for its node; by default Ray gives up after 900 s."
    )


class FaultTolerance(Section):
    """Where the control store keeps its state, so that a lost head does not end the cluster."""

    backend: Literal["rocksdb", "redis"] = Field(
        "rocksdb", description="A volume (alpha in KubeRay 1.7), or Redis."
    )
    size: Quantity = Field("10Gi", description="Of the volume (rocksdb).")
    storage_class: str | None = Field(None, description="Of the volume (rocksdb); default: the cluster's.")
    redis_address: str | None = Field(None, description="host:port (redis).")
    redis_password: SecretKey | None = Field(None, description="Where its password lies (redis).")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.backend == "redis" and self.redis_address is None:
            raise ValueError("backend redis needs redis_address")
        if self.backend == "rocksdb" and (self.redis_address or self.redis_password):
            raise ValueError("redis_address and redis_password go with backend redis")
        return self


class Volume(Section):
    """A claim that every node mounts: a workspace where there is no object store."""

    claim: SecretName = Field(description="Name of a claim that many nodes may write to (ReadWriteMany).")
    path: str = Field("/workspace", pattern=r"^/", description="Where it is mounted.")


class Network(Section):
    """Who may reach the cluster's pods; its own pods always may."""

    operator_namespace: str = Field("kuberay-operator", description="Where KubeRay's operator runs.")
    clients: list[dict[str, str]] = Field(
        [], description="Labels of namespaces that may submit jobs and open the dashboard."
    )
    prometheus_namespace: str | None = Field("monitoring", description="May read metrics; null: nobody.")


class Kueue(Section):
    """Jobs wait in a queue of Kueue until all of the cluster fits."""

    queue: DnsName = Field(description="Name of the local queue.")
    priority: str | None = Field(None, description="Name of a WorkloadPriorityClass.")
    elastic: bool = Field(
        False, description="Lets the autoscaler work (Kueue's gate ElasticJobsViaWorkloadSlices must be on)."
    )


class Gang(Section):
    """All nodes start together or none does; KubeRay's operator must be started with the same scheduler."""

    scheduler: Literal["volcano", "yunikorn", "kai-scheduler", "scheduler-plugins"] = Field(
        description="Which batch scheduler."
    )
    queue: str | None = Field(None, description="Its queue (needed for yunikorn and kai-scheduler).")

    @model_validator(mode="after")
    def _queued(self) -> Self:
        if self.scheduler in ("yunikorn", "kai-scheduler") and self.queue is None:
            raise ValueError(f"{self.scheduler} needs a queue")
        return self


class History(Section):
    """KubeRay's history server keeps logs and events beyond the cluster's end (alpha)."""

    image: str = Field(description="The collector's image, with a tag or digest.")
    environment: dict[str, str] = Field({}, description="Where it writes; see its documentation.")
    secrets: dict[str, SecretKey] = Field({}, description="Variables whose values lie in Kubernetes secrets.")


class DeletionRule(Section):
    """What is deleted some time after a job has ended."""

    policy: Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"] = Field(
        description="What: the cluster, its workers alone, the RayJob with all of it, or nothing."
    )
    status: Literal["SUCCEEDED", "FAILED"] = Field(description="How the job has to have ended.")
    after_seconds: int = Field(0, ge=0, description="So long after the end.")


class KubeJob(Section):
    """A RayJob: a cluster for one job."""

    entrypoint: str = Field(description="The command, such as `finedefics train experiment.yaml`.")
    cpus: float = Field(1, ge=0, description="CPUs that the command itself takes on a worker.")
    retries: int = Field(0, ge=0, description="New clusters after a failure.")
    deadline_seconds: int | None = Field(None, gt=0, description="Ended after this long.")
    keep_seconds: int = Field(300, ge=0, description="The cluster stays this long after the job's end.")
    deletion_rules: list[DeletionRule] = Field([], description="In the place of `keep_seconds`.")


class Machines(Section):
    """Cloud machines for `ray up`."""

    region: str = Field(description="The provider's region.")
    zone: str = Field(description="The provider's zone (aws: several, with commas).")
    project: str | None = Field(None, description="The project (gcp).")
    image: str | None = Field(None, description="Machine image: an AMI, or a source image (gcp needs it).")
    disk_gib: int = Field(200, gt=0, description="Disk of every machine.")
    head: str = Field(description="Machine type of the head.")
    groups: dict[str, str] = Field(description="Machine type of every group.")
    accelerators: dict[str, str] = Field({}, description="GPU type of every group with GPUs (gcp).")
    ssh_user: str = Field("ubuntu", description="Login on the machines.")
    token_file: str = Field(
        "~/.ray/auth_token", description="The token's file, on the machine that runs `ray up`."
    )


class Cluster(Section):
    """A Ray cluster off this machine. No value of it is a secret: those are named, never written."""

    name: DnsName = Field(description="What the cluster is called.")
    namespace: DnsName = Field("default", description="Kubernetes namespace.")
    image: str = Field(description="Container image with the platform, with a tag or digest.")
    ray_version: str = Field(description="Version of Ray in the image.")
    token_secret: SecretName = Field(
        "ray-token", description="Secret whose key `auth_token` holds the token of the job API."
    )
    service_account: DnsName | None = Field(None, description="Of the pods, for rights in a cloud's storage.")
    image_pull_secrets: list[SecretName] = Field([], description="For a private registry.")
    storage: str | None = Field(None, description="Workspace of all jobs: s3://, gs:// or abfs://.")
    volume: Volume | None = Field(None, description="The workspace on a volume, in the place of `storage`.")
    tracking: str | None = Field(None, description="Address of the MLflow server.")
    environment: dict[str, str] = Field({}, description="Variables of all nodes; secrets are refused here.")
    secrets: list[SecretName] = Field([], description="Secrets whose keys become variables of all nodes.")
    user: int = Field(1000, gt=0, description="User and group id in the image; never 0.")
    tls: bool = Field(
        False, description="Encrypt between the nodes (KubeRay asks cert-manager for certificates)."
    )
    head: Head = Field(Head(), description="The head node.")
    groups: list[Group] = Field(min_length=1, description="Worker nodes by kind.")
    autoscaler: Autoscaler | None = Field(None, description="Absent: every group has `most` nodes.")
    fault_tolerance: FaultTolerance | None = Field(None, description="Absent: a lost head ends the cluster.")
    network: Network = Field(Network(), description="Who may reach it.")
    kueue: Kueue | None = Field(None, description="Queueing by Kueue.")
    gang: Gang | None = Field(None, description="Gang scheduling.")
    history: History | None = Field(None, description="KubeRay's history server.")
    job: KubeJob | None = Field(None, description="Also write a RayJob.")
    aws: Machines | None = Field(None, description="For `render ray-up --provider aws`.")
    gcp: Machines | None = Field(None, description="For `render ray-up --provider gcp`.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> list[str]:
        twice = [name for name, count in Counter(group.name for group in self.groups).items() if count > 1]
        planted = [name for name, value in self.environment.items() if is_secret(name, value)]
        planted += [
            name
            for name, value in (self.history or _NO_HISTORY).environment.items()
            if is_secret(name, value)
        ]
        found = [f"two groups are called {name}" for name in twice]
        found += [f"{name} is a secret: put it into a Kubernetes secret and name that" for name in planted]
        if self.storage and self.volume:
            found.append("storage and volume exclude each other")
        if self.kueue is not None:
            if len(self.groups) > KUEUE_GROUPS:
                found.append(f"Kueue takes at most {KUEUE_GROUPS} groups, not {len(self.groups)}")
            if self.job is not None and self.job.deletion_rules:
                reason = "which demands that the cluster ends with its job"
                found.append(f"job.deletion_rules does not go with kueue, {reason}")
            if self.autoscaler is not None and not self.kueue.elastic:
                found.append("kueue goes with an autoscaler only where kueue.elastic is true")
            if self.gang is not None:
                found.append("gang does not go with kueue, which admits all nodes together itself")
        for provider in ("aws", "gcp"):
            found += self._problems_of(provider, getattr(self, provider))
        return found

    def _problems_of(self, provider: str, machines: Machines | None) -> list[str]:
        if machines is None:
            return []
        missing = [group.name for group in self.groups if group.name not in machines.groups]
        found = [f"{provider}.groups names no machine type for {name}" for name in missing]
        if provider == "gcp":
            bare = [
                group.name for group in self.groups if group.gpus and group.name not in machines.accelerators
            ]
            found += [f"gcp.accelerators names no GPU type for {name}" for name in bare]
            found += ["gcp needs project and image"] if not (machines.project and machines.image) else []
        return found


_NO_HISTORY = History(image="none")


def load_cluster(path: str | Path, overrides: Sequence[str] = ()) -> Cluster:
    """Read a cluster's document; FinedeficsError (exit code 2) names the first wrong key.

    Args:
        path: a YAML file.
        overrides: ``a.b=c`` of the command line, applied in order.
    """
    document = read_yaml(path, "cluster", by_key=False)
    for assignment in overrides:
        override_by_text(document, assignment, by_key=False)
    return parse_document(Cluster, document, place=str(path))

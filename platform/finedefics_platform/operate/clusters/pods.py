"""Pods of a Ray cluster on Kubernetes: who they run as, what they may take, where they write."""

from typing import Any

from finedefics_platform.config.cluster import Cluster, Group

Manifest = dict[str, Any]

CACHE, SPILL = "/cache", "/spill"


def pod_template(cluster: Cluster, group: Group | None, *, labels: dict[str, str]) -> Manifest:
    """The pod of a group's node, or of the head (``group`` None)."""
    node = cluster.head if group is None else group
    amounts: dict[str, str] = {"cpu": str(node.cpus), "memory": node.memory}
    if group is not None and group.gpus:
        amounts[group.gpu_resource] = str(group.gpus)
    volumes: list[Manifest] = [{"name": "cache", "emptyDir": {}}]
    mounts: list[Manifest] = [{"name": "cache", "mountPath": CACHE}]
    if group is not None:
        volumes.append({"name": "spill", "emptyDir": {"sizeLimit": group.spilling}})
        mounts.append({"name": "spill", "mountPath": SPILL})
    if cluster.volume is not None:
        volumes.append({"name": "workspace", "persistentVolumeClaim": {"claimName": cluster.volume.claim}})
        mounts.append({"name": "workspace", "mountPath": cluster.volume.path})
    container = {
        **_container(cluster, "ray-head" if group is None else "ray-worker", amounts),
        "volumeMounts": mounts,
    }
    if group is None:
        ports = {"gcs": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
        container["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    else:
        container["ports"] = [{"name": "metrics", "containerPort": 8080}]
    spec = {**_pod(cluster), "containers": [container], "volumes": volumes}
    if group is not None:
        spec["automountServiceAccountToken"] = cluster.service_account is not None
        if group.tolerations:
            spec["tolerations"] = group.tolerations
    if node.node_selector:
        spec["nodeSelector"] = node.node_selector
    return {"metadata": {"labels": labels}, "spec": spec}


def job_pod(cluster: Cluster, *, labels: dict[str, str]) -> Manifest:
    """The small pod that hands a RayJob's command to the cluster."""
    container = _container(cluster, "ray-job-submitter", {"cpu": "500m", "memory": "512Mi"})
    return {"metadata": {"labels": labels}, "spec": {**_pod(cluster), "containers": [container]}}


def _pod(cluster: Cluster) -> Manifest:
    spec: Manifest = {
        "restartPolicy": "Never",  # autoscaler v2 replaces nodes, it does not restart them
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.user,
            "runAsGroup": cluster.user,
            "fsGroup": cluster.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if cluster.service_account is not None:
        spec["serviceAccountName"] = cluster.service_account
    if cluster.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in cluster.image_pull_secrets]
    return spec


def _container(cluster: Cluster, name: str, amounts: dict[str, str]) -> Manifest:
    container: Manifest = {
        "name": name,
        "image": cluster.image,
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "env": [{"name": variable, "value": value} for variable, value in variables(cluster).items()],
    }
    if cluster.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in cluster.secrets]
    return container


def variables(cluster: Cluster) -> dict[str, str]:
    """Variables of every node; the document's own win."""
    chosen = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "FINEDEFICS_CACHE": CACHE,
    }
    if cluster.autoscaler is not None:
        chosen["RAY_JOB_START_TIMEOUT_SECONDS"] = str(cluster.autoscaler.job_start_seconds)
    if home := cluster.storage or (cluster.volume.path if cluster.volume else None):
        chosen["FINEDEFICS_HOME"] = home
    if cluster.tracking is not None:
        chosen["MLFLOW_TRACKING_URI"] = cluster.tracking
    return chosen | cluster.environment

"""RayCluster, RayJob and NetworkPolicy for KubeRay 1.7, from a cluster's document."""

from typing import Any

from finedefics_platform.config.cluster import Cluster, Gang, KubeJob
from finedefics_platform.operate.clusters.pods import job_pod, pod_template

INSTANCE = "app.kubernetes.io/instance"
JOBS_PORT, STORE_PORT, CLIENT_PORT, METRICS_PORT = 8265, 6379, 10001, 8080

Manifest = dict[str, Any]


def manifests(cluster: Cluster) -> dict[str, list[Manifest]]:
    """What `kubectl apply -f` takes, by file name: the cluster, and the job where the document has one."""
    files = {"cluster.yaml": [_network_policy(cluster), _ray_cluster(cluster)]}
    if cluster.job is not None:
        files["job.yaml"] = [_network_policy(cluster), _ray_job(cluster, cluster.job)]
    return files


def _ray_cluster(cluster: Cluster) -> Manifest:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _metadata(cluster),
        "spec": _cluster_spec(cluster),
    }


def _ray_job(cluster: Cluster, job: KubeJob) -> Manifest:
    spec: Manifest = {
        "entrypoint": job.entrypoint,
        # The head has no CPUs, so that the command runs on a worker.
        "entrypointNumCpus": job.cpus,
        "backoffLimit": job.retries,
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": job_pod(cluster, labels={INSTANCE: cluster.name}),
        "rayClusterSpec": _cluster_spec(cluster),
    }
    if job.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = job.deadline_seconds
    if job.deletion_rules:
        rules = [
            {"policy": rule.policy, "condition": {"jobStatus": rule.status, "ttlSeconds": rule.after_seconds}}
            for rule in job.deletion_rules
        ]
        spec |= {"shutdownAfterJobFinishes": False, "deletionStrategy": {"deletionRules": rules}}
    else:
        spec |= {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": job.keep_seconds}
    metadata = {**_metadata(cluster), "name": f"{cluster.name}-job"}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _metadata(cluster: Cluster) -> Manifest:
    labels = {"app.kubernetes.io/part-of": "finedefics", INSTANCE: cluster.name}
    annotations: dict[str, str] = {}
    if (kueue := cluster.kueue) is not None:
        labels["kueue.x-k8s.io/queue-name"] = kueue.queue
        if kueue.priority:
            labels["kueue.x-k8s.io/priority-class"] = kueue.priority
        if kueue.elastic:
            annotations["kueue.x-k8s.io/elastic-job"] = "true"
    if cluster.gang is not None:
        labels |= _gang_labels(cluster.gang, cluster.name)
    metadata: Manifest = {"name": cluster.name, "namespace": cluster.namespace, "labels": labels}
    return {**metadata, "annotations": annotations} if annotations else metadata


def _gang_labels(gang: Gang, name: str) -> dict[str, str]:
    queue = gang.queue or ""
    labels = {
        "volcano": {"ray.io/scheduler-name": "volcano", "volcano.sh/queue-name": queue},
        "yunikorn": {"yunikorn.apache.org/app-id": name, "yunikorn.apache.org/queue": queue},
        "kai-scheduler": {"kai.scheduler/queue": queue},
        "scheduler-plugins": {},
    }[gang.scheduler]
    return {
        "ray.io/gang-scheduling-enabled": "true",
        **{key: value for key, value in labels.items() if value},
    }


def _cluster_spec(cluster: Cluster) -> Manifest:
    scaled = cluster.autoscaler is not None
    spec: Manifest = {
        "rayVersion": cluster.ray_version,
        "authOptions": {"mode": "token", "secretName": cluster.token_secret},
        "enableInTreeAutoscaling": scaled,
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            # Reachable by pods that the network policy and the token let in; no CPUs: work runs on workers.
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
            "template": pod_template(cluster, None, labels={INSTANCE: cluster.name}),
        },
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "replicas": group.least if scaled else group.most,
                "minReplicas": group.least if scaled else group.most,
                "maxReplicas": group.most,
                "numOfHosts": 1,
                "rayStartParams": {"object-spilling-directory": "/spill"},
                "template": pod_template(cluster, group, labels={INSTANCE: cluster.name}),
            }
            for group in cluster.groups
        ],
    }
    return spec | _options(cluster)


def _options(cluster: Cluster) -> Manifest:
    options: Manifest = {}
    if (scaler := cluster.autoscaler) is not None:
        options["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": scaler.idle_seconds,
            "upscalingMode": scaler.upscaling,
            "resources": {
                "requests": {"cpu": "500m", "memory": "1Gi"},
                "limits": {"cpu": "500m", "memory": "1Gi"},
            },
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    if cluster.fault_tolerance is not None:
        options["gcsFaultToleranceOptions"] = _fault_tolerance(cluster)
    if cluster.tls:
        options["tlsOptions"] = {"enabled": True}
    if (history := cluster.history) is not None:
        plain = [{"name": name, "value": value} for name, value in history.environment.items()]
        secret = [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": where.secret, "key": where.key}}}
            for name, where in history.secrets.items()
        ]
        limits = {"cpu": "500m", "memory": "512Mi"}
        options["historyServerOptions"] = {
            "collectorOptions": {
                "image": history.image,
                "env": [*plain, *secret],
                "resources": {"requests": limits, "limits": limits},
            }
        }
    return options


def _fault_tolerance(cluster: Cluster) -> Manifest:
    kept = cluster.fault_tolerance
    assert kept is not None
    if kept.backend == "redis":
        options: Manifest = {"backend": "redis", "redisAddress": kept.redis_address}
        if (password := kept.redis_password) is not None:
            options["redisPassword"] = {
                "valueFrom": {"secretKeyRef": {"name": password.secret, "key": password.key}}
            }
        return options
    storage: Manifest = {
        "size": kept.size,
        "accessModes": ["ReadWriteOnce"],
        "deletionPolicy": "DeleteWithCluster",
    }
    if kept.storage_class:
        storage["storageClassName"] = kept.storage_class
    return {"backend": "rocksdb", "storage": storage}


def _network_policy(cluster: Cluster) -> Manifest:
    """Nobody in but the cluster's own pods, the operator, named clients and Prometheus."""
    network = cluster.network
    rules: list[Manifest] = [
        {"from": [{"podSelector": {"matchLabels": {INSTANCE: cluster.name}}}]},
        _rule([_namespace(network.operator_namespace)], [JOBS_PORT, STORE_PORT]),
    ]
    if network.clients:
        rules.append(_rule(network.clients, [JOBS_PORT, STORE_PORT, CLIENT_PORT]))
    if network.prometheus_namespace is not None:
        rules.append(_rule([_namespace(network.prometheus_namespace)], [METRICS_PORT]))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{cluster.name}-ray", "namespace": cluster.namespace},
        "spec": {
            "podSelector": {"matchLabels": {INSTANCE: cluster.name}},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    }


def _namespace(name: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name}


def _rule(namespaces: list[dict[str, str]], ports: list[int]) -> Manifest:
    return {
        "from": [{"namespaceSelector": {"matchLabels": labels}} for labels in namespaces],
        "ports": [{"protocol": "TCP", "port": port} for port in ports],
    }

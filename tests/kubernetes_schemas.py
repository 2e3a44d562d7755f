"""Manifests against the schemas that a cluster would hold them to: KubeRay's own, and Kubernetes' core."""

import functools
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
import yaml
from kubernetes_validate import utils as kubernetes

FOLDER = "kubernetes-json-schema/v1.34.0-local-strict"
CRDS = Path(__file__).parents[2] / "shared" / "reference" / "kuberay-crds"
FILES = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


def check(manifest: dict[str, Any]) -> None:
    """Raises where the manifest has an unknown field, a missing one, or one of the wrong kind."""
    if manifest["kind"] not in FILES:
        _core(manifest["kind"], manifest["apiVersion"]).validate(manifest)
        return
    _kuberay(manifest["kind"]).validate(manifest)
    for template in _templates(manifest["spec"]):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": "pod", **pod["metadata"]}
        _core("Pod", "v1").validate(pod)


def _templates(node: Any) -> list[dict[str, Any]]:
    """Pod templates at any depth: CRDs describe them loosely, the core schemas do not."""
    found = []
    if isinstance(node, dict):
        for name, value in node.items():
            found += [value] if name in ("template", "submitterPodTemplate") else _templates(value)
    elif isinstance(node, list):
        found = [template for item in node for template in _templates(item)]
    return found


@functools.cache
def _core(kind: str, version: str) -> jsonschema.Draft202012Validator:
    """Made once a kind: the package itself reads all its definitions again for every manifest."""
    group, _, number = version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], number) if part)
    registry = referencing.Registry()
    for file in (f"{name}.json", "_definitions.json"):
        contents = kubernetes.schema_contents(f"{FOLDER}/{file}", "1.34")
        registry = referencing.Resource.from_contents(contents) @ registry
    return jsonschema.Draft202012Validator(
        kubernetes.schema_contents(f"{FOLDER}/{name}.json", "1.34"), registry=registry
    )


@functools.cache
def _kuberay(kind: str) -> jsonschema.Draft202012Validator:
    if not CRDS.is_dir():
        pytest.skip("KubeRay's schemas are not here")
    versions = yaml.load((CRDS / FILES[kind]).read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (found,) = (version for version in versions if version["name"] == "v1")
    schema: dict[str, Any] = found["schema"]["openAPIV3Schema"]
    _refuse_unknown(schema)
    return jsonschema.Draft202012Validator(schema)


def _refuse_unknown(schema: dict[str, Any]) -> None:
    """A cluster drops unknown fields in silence, which is how a misspelt limit limits nothing."""
    if "properties" in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for inner in schema["properties"].values():
            _refuse_unknown(inner)
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            _refuse_unknown(inner)

"""The files of `cluster/`: images that a linter passes, services without a secret, a dashboard that loads."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_schemas import check

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
DOCKERFILES = sorted(CLUSTER.rglob("Dockerfile"))
COMPOSE = yaml.safe_load((CLUSTER / "mlflow" / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((CLUSTER / "mlflow" / "kubernetes.yaml").read_text()))
PINNED = re.compile(r"(@sha256:[0-9a-f]{64}|:[A-Za-z]*\.?\d+[-.\w]*)$")


def lint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True, timeout=60)


def test_dockerfiles_pass_the_linter_and_it_looks(tmp_path: Path) -> None:
    assert len(DOCKERFILES) == 2
    for dockerfile in DOCKERFILES:
        done = lint(dockerfile)
        assert done.returncode == 0, done.stdout
    (loose := tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /tmp\n")
    assert "DL3007" in lint(loose).stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_are_pinned_and_run_as_nobody_special(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        for name, value in arguments.items():
            base = base.replace(f"${{{name}}}", value)
        assert re.search(r":\d+\.\d+\.\d+-slim-\w+$", base), base
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users == ["1000:1000"]
    assert "-c constraints.txt" in text or "-c /tmp/constraints.txt" in text


def test_the_image_takes_a_device_and_what_it_copies_is_sent(tmp_path: Path) -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert "ARG DEVICE=gpu" in text
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    for dockerfile in DOCKERFILES:
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile.read_text(), re.MULTILINE):
            *sources, _ = [word for word in line.split() if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists(), source
                assert any(source == one or source.startswith(f"{one}/") for one in sent), source


def test_the_server_s_image_has_the_version_that_the_tests_ran_with() -> None:
    (pinned,) = re.findall(r"^mlflow==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for file in ("Dockerfile", "compose.yaml", "kubernetes.yaml"):
        versions = re.findall(
            r"mlflow(?:\[auth\]==|:)(\d+\.\d+\.\d+)", (CLUSTER / "mlflow" / file).read_text()
        )
        assert versions
        assert set(versions) == {pinned}


def test_compose_publishes_loopback_alone_and_reads_secrets_from_files() -> None:
    for name, service in COMPOSE["services"].items():
        assert PINNED.search(service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
        for variable, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|SECRET|ACCESS_KEY|ROOT_USER", variable)
            assert not secret or (variable.endswith("_FILE") and value.startswith("/run/secrets/")), variable
    assert {"--app-name", "basic-auth"} <= set(
        re.findall(r'"([^"]+)"', (CLUSTER / "mlflow" / "Dockerfile").read_text())
    )


def test_secrets_are_read_from_files_and_not_printed(tmp_path: Path) -> None:
    script = CLUSTER / "mlflow" / "with-secrets"
    assert script.stat().st_mode & stat.S_IXUSR
    (file := tmp_path / "password").write_text("two words $HOME")
    done = subprocess.run(
        [str(script), "sh", "-c", "test \"$PGPASSWORD\" = 'two words $HOME' && echo held"],
        env={"PATH": "/usr/bin:/bin", "PGPASSWORD_FILE": str(file)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("held\n", "")


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_the_server_s_manifests_are_valid_and_held_back(manifest: dict[str, Any]) -> None:
    check(manifest)
    assert manifest["kind"] != "Secret"
    pod = manifest["spec"].get("template", {}).get("spec") if "spec" in manifest else None
    if pod is None:
        return
    assert pod["securityContext"]["runAsNonRoot"]
    for container in pod["containers"]:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]
        assert PINNED.search(container["image"])
        for variable in container["env"]:
            assert "valueFrom" in variable or not re.search("PASSWORD|SECRET", variable["name"])


def test_the_dashboard_shows_what_is_promised() -> None:
    board = json.loads((CLUSTER / "grafana.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    text = " ".join(target["expr"] for panel in board["panels"] for target in panel.get("targets", []))
    for name in (
        "loss",
        "temperature",
        "data_wait_share",
        "samples_per_second",
        "checkpoint_age_seconds",
        "search_",
    ):
        assert f"ray_finedefics_{name}" in text
    assert "ray_train_" in text
    names = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", text)) <= names
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:  # no panel lies over another
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells

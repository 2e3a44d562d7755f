"""What travels with a job: what is named, found again from where the command runs, and nothing else."""

from pathlib import Path

import pytest
import yaml

from finedefics.errors import FinedeficsError
from finedefics_platform.config.job import Job
from finedefics_platform.operate.jobs.package import gather
from finedefics_platform.operate.jobs.submission import job_id


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit from, with a job's file in `specs` and a search beside it."""
    for folder in ("project/specs", "project/searches/arms", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    project = tmp_path / "project"
    (project / "searches/search.yaml").write_text(yaml.safe_dump({"experiment": "arms/joint.yaml"}))
    (project / "searches/arms/joint.yaml").write_text(yaml.safe_dump({"name": "joint", "answer": "own.py"}))
    (project / "own.py").write_text("x = 1\n")
    (project / "secret-notes.txt").write_text("nobody names it")
    monkeypatch.chdir(project)
    return project


def tune(**keys: object) -> Job:
    return Job.model_validate({"name": "t", "job": "tune", "document": "../searches/search.yaml", **keys})


def test_a_document_travels_with_what_it_names_and_nothing_else(project: Path) -> None:
    package = gather(tune(), project / "specs/job.yaml")
    assert set(package.files) == {"searches/search.yaml", "searches/arms/joint.yaml", "own.py"}
    assert (package.folder, package.command) == (".", ("tune", "searches/search.yaml"))


def test_every_path_means_the_same_in_the_package(project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/labels.csv").write_text("a,b\n")
    arguments = ["birds", "--labeller", f"file:{tmp_path}/elsewhere/labels.csv", "--precision", "0.8"]
    job = Job.model_validate({"name": "l", "job": "label", "arguments": arguments})
    package = gather(job, project / "specs/job.yaml")
    package.write(tmp_path / "there")
    assert package.command == (
        "data",
        "label",
        "birds",
        "--labeller",
        "file:../elsewhere/labels.csv",
        *arguments[3:],
    )
    assert (tmp_path / "there" / package.folder / "../elsewhere/labels.csv").read_text() == "a,b\n"


def test_a_folder_does_not_travel_unless_it_is_included(project: Path) -> None:
    (project / "data/pictures").mkdir(parents=True)
    (project / "data/pictures/a.jpg").write_bytes(b"a")
    job = {"name": "i", "job": "ingest", "arguments": ["data/pictures", "--name", "birds"]}
    with pytest.raises(FinedeficsError, match="does not travel") as caught:
        gather(Job.model_validate(job), project / "specs/job.yaml")
    assert "include" in caught.value.cure
    included = Job.model_validate({**job, "include": ["../data/pictures"]})
    assert set(gather(included, project / "specs/job.yaml").files) == {"data/pictures/a.jpg"}
    absolute = Job.model_validate({**job, "arguments": ["/somewhere/pictures", "--name", "birds"]})
    assert gather(absolute, project / "specs/job.yaml").outside == ("/somewhere/pictures",)


def test_rayignore_is_honoured_in_what_is_included(project: Path) -> None:
    for name in (
        "kept.py",
        "left.ckpt",
        "deep/kept.py",
        "deep/left.ckpt",
        ".git/config",
        "__pycache__/a.pyc",
    ):
        (project / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "code" / name).write_text(name)
    (project / ".rayignore").write_text("*.ckpt\n")
    package = gather(tune(include=["../code"]), project / "specs/job.yaml")
    assert {way for way in package.files if way.startswith("code")} == {"code/kept.py", "code/deep/kept.py"}


def test_a_package_over_the_limit_is_refused_with_what_makes_it_large(project: Path) -> None:
    with (project / "weights.bin").open("wb") as file:
        file.truncate(600 * 2**20)  # takes no room on the disk
    package = gather(tune(include=["../weights.bin"]), project / "specs/job.yaml")
    with pytest.raises(FinedeficsError, match=r"weights\.bin 600 MiB"):
        package.check_size()


def test_the_id_follows_from_what_runs(project: Path) -> None:
    def id_of(job: Job) -> str:
        return job_id(job, gather(job, project / "specs/job.yaml"))

    first = id_of(tune())
    assert first.startswith("t-")
    assert id_of(tune()) == first
    assert id_of(tune(arguments=["--force"])) != first
    (project / "secret-notes.txt").write_text("changed, and does not travel")
    assert id_of(tune()) == first
    (project / "own.py").write_text("x = 2\n")
    assert id_of(tune()) != first

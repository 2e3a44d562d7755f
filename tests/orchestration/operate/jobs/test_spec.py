"""The job file: what it may say, what it must not, and that the shipped ones are valid."""

from pathlib import Path

import pytest
import yaml

from finedefics.errors import FinedeficsError
from finedefics_platform.config.job import COMMANDS, load_job
from finedefics_platform.operate.jobs.needs import bundles_of
from finedefics_platform.operate.jobs.package import gather

SPECS = sorted((Path(__file__).parents[4] / "jobs/specs").glob("*.yaml"))
LEAST = {"name": "mine-birds", "job": "mine", "arguments": ["birds"]}


def written(folder: Path, **keys: object) -> Path:
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({**LEAST, **keys}))
    return file


def refusal(folder: Path, **keys: object) -> str:
    with pytest.raises(FinedeficsError) as caught:
        load_job(written(folder, **keys))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_there_is_a_spec_for_every_kind_of_job() -> None:
    assert {load_job(file).job for file in SPECS} == set(COMMANDS)


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_a_shipped_spec_is_valid_and_its_documents_travel(file: Path) -> None:
    job = load_job(file)
    bundles = bundles_of(job, file)
    assert bundles[0]["CPU"] == job.entrypoint.cpus
    package = gather(job, file)
    assert package.command[0] == COMMANDS[job.job][0]
    assert (job.document is not None) == bool(package.files)


def test_units_and_numbers_are_read(tmp_path: Path) -> None:
    entrypoint = {"memory": "2GiB", "custom": {"ssd": 1}}
    keys = {"deadline": "90min", "stop_grace": 5, "entrypoint": entrypoint, "arguments": ["birds", 3]}
    job = load_job(written(tmp_path, environment={"N": 4}, **keys), ["retries=2"])
    assert (job.deadline, job.stop_grace, job.entrypoint.memory) == (5400, 5, 2 * 2**30)
    assert (job.environment, job.arguments, job.retries) == ({"N": "4"}, ("birds", "3"), 2)
    assert job.command == ("data", "mine", "birds", "3")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"jobb": 1}, "unknown key `jobb`"),
        ({"entrypoint": {"cpu": 1}}, "use one of: cpus, gpus, memory, custom"),
        ({"job": "bake"}, "`job` is wrong"),
        ({"job": "train"}, "needs `document`"),
        ({"document": "x.yaml"}, "takes no `document`"),
        ({"deadline": "soon"}, "`deadline` is wrong"),
        ({"environment": {"FINEDEFICS_HOME": "/x"}}, "set by `storage`"),
        ({"environment": {"A": "1"}, "secrets": {"A": "cluster"}}, "in `environment` and in `secrets`"),
        ({"storage": "ftp://x/y"}, "not a place that can be stored to"),
        ({"name": "../x"}, "`name` is wrong"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, keys: dict[str, object], said: str) -> None:
    assert said.lower() in refusal(tmp_path, **keys).lower()


@pytest.mark.parametrize(
    "keys",
    [
        {"environment": {"HF_TOKEN": "planted-7a1b2c3d4e"}},
        {"environment": {"HARMLESS": "hf_planted7a1b2c3d4e5f6a7b8c9d"}},
        {"secrets": {"HF_TOKEN": "planted-7a1b2c3d4e"}},
        {"tracking": "http://me:planted-7a1b2c3d4e@tracking:5000"},
        {"arguments": ["birds", "--describer", "http://x?sig=planted-7a1b2c3d4e"]},
    ],
)
def test_a_secret_written_out_is_refused_and_not_repeated(tmp_path: Path, keys: dict[str, object]) -> None:
    said = refusal(tmp_path, **keys)
    assert "secret" in said
    assert "planted" not in said

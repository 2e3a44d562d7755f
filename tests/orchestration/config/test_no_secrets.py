"""A secret is named and never written: documents and settings that hold one are refused, unseen."""

import json
from pathlib import Path

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.events import EventWriter
from finedefics_platform.base.storage import Location
from finedefics_platform.cli.failures import print_traceback
from finedefics_platform.cli.main import main
from finedefics_platform.config.documents import override_by_text, read_yaml, refuse_secrets

PLANTED = "s3cr3t-horse-77"


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("model", {"path": f"https://ann:{PLANTED}@host/model"}, "model.path"),
        ("model", {"path": PLANTED}, "model.path"),  # what a variable of this process holds
        ("deepspeed", {"options": {"api_key": "anything-else"}}, "deepspeed.options.api_key"),
        ("stages", [{"name": "hf_" + "Q" * 30}], "stages.0.name"),
    ],
)
def test_a_document_with_a_secret_is_refused_by_its_key(
    key: str, value: object, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", PLANTED)
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps({"name": "one", key: value}))
    with pytest.raises(FinedeficsError, match=f"`{found}` holds a secret") as caught:
        read_yaml(file, "experiment")
    assert caught.value.exit_code == 2
    assert "environment" in caught.value.cure
    assert not any(text in str(caught.value) for text in (PLANTED, "anything-else", "QQQ"))


def test_names_of_secrets_and_what_only_looks_like_one_are_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DB_PASSWORD", PLANTED)
    document = {
        "secrets": {"HF_TOKEN": "submitter"},
        "model": {"path": "abfs://models@account.dfs.core.windows.net/x"},
        "data": {"columns": {"image": "token", "file": "password.csv"}, "token_budget": 8},
    }
    refuse_secrets(document, place="test")


def test_a_setting_of_the_command_line_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FinedeficsError, match="holds a secret") as caught:
        override_by_text({}, "deepspeed.options.password=any-horse-88")
    assert caught.value.place == "--set deepspeed.options.password=[hidden]"
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path / "home"))
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps({"name": "one"}))
    for setting in (f"model.path=s3://id:{PLANTED}@bucket/x", f"describer.api_key={PLANTED}"):
        assert main(["train", str(file), "--set", setting, "--debug"]) == 2
        assert PLANTED not in "".join(capsys.readouterr())
    assert not (tmp_path / "home").exists()


def test_a_traceback_and_an_event_hide_what_the_error_line_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DB_PASSWORD", PLANTED)
    try:
        raise RuntimeError(f"no user {PLANTED}") from ValueError(f"https://ann:{PLANTED}@host")
    except RuntimeError as error:
        print_traceback(error)
    told = capsys.readouterr().err
    assert PLANTED not in told
    assert "RuntimeError: no user [hidden]" in told
    writer = EventWriter(Location(str(tmp_path)), 1)
    writer.write("failed", reason=f"no user {PLANTED}", step=3)
    writer.close()
    (file,) = tmp_path.iterdir()
    assert PLANTED not in file.read_text()
    assert json.loads(file.read_text())["reason"] == "no user [hidden]"

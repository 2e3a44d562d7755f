"""Secrets are hidden, and nothing else is."""

import os

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.secrets import hide, is_secret, without_secrets
from finedefics_platform.base.storage import Location
from finedefics_platform.cli.failures import report

SECRET = """
AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AZURE_STORAGE_KEY AZURE_STORAGE_CONNECTION_STRING
AccountKey Authorization DB_PASSWD GITHUB_TOKEN HF_TOKEN MLFLOW_TRACKING_PASSWORD MLFLOW_TRACKING_TOKEN
MYSQL_PWD OPENAI_API_KEY PGPASSWORD SECRET SSH_PRIVATE_KEY api-key apiKey describer.api_key password
proxy.headers.authorization secretAccessKey token access_tokens
"""
HARMLESS = """
PWD OLDPWD AUTHOR AUTHORS KEY KEYBOARD KEYMAP PASSWORD_FILE AWS_SHARED_CREDENTIALS_FILE AWS_REGION
AWS_WEB_IDENTITY_TOKEN_FILE AWS_ENDPOINT_URL SSH_AUTH_SOCK TOKENIZERS_PARALLELISM XDG_SESSION_ID
eos_token image_token key loss_per_token max_new_tokens monkey new_token pad_token private secret_name
secretary stages.tokens token_budget tokenizer tokens_per_second unlabelled_accesses
"""


@pytest.mark.parametrize("name", SECRET.split())
def test_the_name_of_a_secret(name: str) -> None:
    assert is_secret(name, "any-value-1")
    assert hide({name: "any-value-1"}) == {name: "[hidden]"}


@pytest.mark.parametrize("name", HARMLESS.split())
def test_a_name_that_only_looks_like_one(name: str) -> None:
    assert not is_secret(name, "any-value-1")


TEXTS = [
    # variable, its value, a text, the text as it is recorded
    ("PWD", "/home/ann", "/home/ann/models/x", "/home/ann/models/x"),
    ("SOME_TOKEN", "/tmp/models", "/tmp/models/x", "/tmp/models/x"),
    ("DB_PASSWORD", "finedefics", "/srv/finedefics/x", "/srv/finedefics/x"),
    ("DB_PASSWORD", "1", "step 1", "step 1"),
    ("DB_PASSWORD", "s3cr3t-pass", "no user s3cr3t-pass", "no user [hidden]"),
    ("AWS_SECRET_ACCESS_KEY", "/aB3+/xY9zQ7kLmN", "key=/aB3+/xY9zQ7kLmN.", "key=[hidden]."),
    ("X", "y", "see https://ann:geheim@host/a and ssh://git@host/b", None),
    (
        "X",
        "y",
        "abfs://pictures@account.dfs.core.windows.net/x",
        "abfs://pictures@account.dfs.core.windows.net/x",
    ),
    ("X", "y", "http://s3/b?X-Amz-Signature=abc&part=1", "http://s3/b?X-Amz-Signature=[hidden]&part=1"),
    ("X", "y", f"with hf_{'Q' * 30} and AKIA{'A' * 16}", "with [hidden] and [hidden]"),
]


@pytest.mark.parametrize(("variable", "value", "text", "recorded"), TEXTS)
def test_a_text_keeps_everything_but_secrets(
    variable: str, value: str, text: str, recorded: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert without_secrets(text) == (recorded or "see https://[hidden]@host/a and ssh://git@host/b")


def test_the_working_folder_is_in_every_process_and_in_no_way_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = os.getcwd()
    monkeypatch.setenv("PWD", folder)
    monkeypatch.setenv("OLDPWD", folder)
    assert hide({"path": f"{folder}/models/x"}) == {"path": f"{folder}/models/x"}
    assert hide({"PWD": folder, "environment": {"pwd": folder}}) == {
        "PWD": folder,
        "environment": {"pwd": folder},
    }


def test_an_error_line_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    error = FinedeficsError("refused wJalrXUtnFEMI/K7MDENG", place="s3://a:b-c@bucket", cure="look")
    assert report(error, json=True) == 1
    told = "".join(capsys.readouterr())
    assert "wJalr" not in told
    assert "b-c" not in told
    assert "s3://[hidden]@bucket: refused [hidden]; look" in told


@pytest.mark.parametrize(
    "address", ["s3://id:geheim@bucket/x", "s3://geheim@bucket", "abfs://c:geheim@account/x"]
)
def test_keys_in_an_address_are_refused_since_places_are_written_down(address: str) -> None:
    with pytest.raises(FinedeficsError, match="AWS_ACCESS_KEY_ID") as caught:
        Location.of(address)
    assert caught.value.exit_code == 2
    assert "geheim" not in str(caught.value)
    container = "abfs://pictures@account.dfs.core.windows.net/x"
    assert Location.of(container).uri == container

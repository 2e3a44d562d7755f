"""The experiment document: what is refused, how it is overridden, and what its digest stands for."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finedefics.errors import FinedeficsError
from finedefics.terms import TERM_FEEDS
from finedefics_platform.base.digest import digest_of
from finedefics_platform.cli.main import main
from finedefics_platform.config.documents import override
from finedefics_platform.config.experiment import Experiment, load_experiment, parse_experiment
from finedefics_platform.demo.journey import HERE
from finedefics_platform.demo.scale import ARMS
from finedefics_platform.search.document import load_search
from finedefics_platform.search.space import trial_experiment
from finedefics_platform.training.worker import objective_settings

DOCUMENT: dict[str, Any] = {
    "name": "one",
    "data": {"dataset": "birds"},
    "model": {"path": "base"},
    "stages": [{"name": "align", "steps": 4, "feeds": {"labelled": 8}, "terms": {"answer": 1}}],
}


def changed(**keys: Any) -> dict[str, Any]:
    document = json.loads(json.dumps(DOCUMENT))
    for key, value in keys.items():
        override(document, key.replace("__", "."), value, place="test")
    return document


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stages__0__stepz", 3, r"unknown key `stages\.0\.stepz`; use one of: name, steps, learning_rate"),
        ("sections", {}, r"unknown key `sections`; use one of: name, seed, data"),
        ("stages__0__feeds__video", 3, r"feeds\.video"),
        ("stages__0__terms__contrast", 1, r"terms\.contrast"),
        ("stages__0__steps", 0, r"`stages\.0\.steps` is wrong: .*greater than 0"),
        ("stages__0__terms", {"answer": 0}, "nothing would be trained"),
        ("stages__0__terms", {"text": 1}, "term text needs the feed text, and the stage has none"),
        ("stages__0__terms", {"text": {"weight": 1, "feeds": ["labelled"]}}, "not defined on feed labelled"),
        ("deepspeed", {"zero_stage": 4}, r"deepspeed\.zero_stage"),
        ("model", {}, r"`model\.path` is missing"),
        ("data__inferred_probability", 1.5, r"data\.inferred_probability` is wrong"),
        ("model__attention", "flex", r"model\.attention"),
        (
            "model__attention",
            "flex_attention",
            r"on gpus only.*gpus_per_worker is 0; set it to 1",
        ),
        (
            "compute__cache_vision",
            True,
            r"frozen tower .*model\.train trains connector; set model\.train to \[text\]",
        ),
        ("adapters", {"rank": 64}, r"adapters\.rank has no effect .*set adapters\.kind to lora, dora"),
        ("adapters", {"rank": 8}, r"adapters\.rank has no effect"),
        ("adapters", {"kind": "full", "dropout": 0.1}, r"adapters\.dropout has no effect"),
        ("adapters", {"kind": "lora", "targets": ["text", "text"]}, r"adapters\.targets names text twice"),
    ],
)
def test_a_wrong_document_is_refused_in_one_line(key: str, value: Any, message: str) -> None:
    with pytest.raises(FinedeficsError, match=message) as refused:
        parse_experiment(changed(**{key: value}), place="experiment.yaml")
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("experiment.yaml: ")


def test_what_is_kept_or_compiled_is_so_under_every_layout_or_refused() -> None:
    kept = {"compute": {"cache_vision": True}, "model__train": ["text"]}
    assert parse_experiment(changed(**kept), place="test").compute.cache_vision
    plain = parse_experiment(changed(model__train=["text"]), place="test")
    assert parse_experiment(changed(**kept), place="test").digest() == plain.digest()
    adapted = {"compute": {"cache_vision": True}, "adapters": {"kind": "lora"}}
    with pytest.raises(
        FinedeficsError, match=r"adapters\.targets trains projection, resampler; set adapters"
    ):
        parse_experiment(changed(**adapted), place="test")
    for computed in (kept, {"compute": {"compile": True}}):
        with pytest.raises(FinedeficsError, match=r"zero_stage 3 .*use zero_stage 2"):
            parse_experiment(changed(**computed, deepspeed={"zero_stage": 3}), place="test")


def test_parts_to_tune_are_refused_beside_adapters() -> None:
    document = changed(model__train=["vision"], adapters={"kind": "lora"})
    with pytest.raises(FinedeficsError, match=r"model\.train has no effect with adapters .*leave it out"):
        parse_experiment(document, place="test")


@pytest.mark.parametrize("adapters", [{}, {"kind": "full"}, {"kind": "dora", "rank": 2, "targets": ["text"]}])
def test_a_stored_experiment_is_read_again(adapters: dict[str, Any]) -> None:
    experiment = parse_experiment(changed(adapters=adapters), place="test")
    stored = json.loads(json.dumps(experiment.model_dump(mode="json")))
    assert parse_experiment(stored, place="test") == experiment


def test_adapters_are_named_in_a_few_words() -> None:
    assert parse_experiment(DOCUMENT, place="test").adapters.identity() is None
    adapted = changed(adapters={"kind": "lora", "targets": ["text", "projection"]})
    identity = parse_experiment(adapted, place="test").adapters.identity()
    assert identity == "lora r8 alpha8 on text, projection"


def test_two_stages_of_one_name_are_refused() -> None:
    document = changed()
    document["stages"] *= 2
    with pytest.raises(FinedeficsError, match="two stages have the same name"):
        parse_experiment(document, place="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [("name: [", "not valid YAML"), ("- a\n- b\n", "holds no mapping"), ("", "holds no mapping")],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(FinedeficsError, match=message):
        load_experiment(tmp_path / "x.yaml")


def test_the_command_line_names_the_key_and_exits_with_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps(changed(stages__0__stepz=3)))
    assert main(["train", str(file)]) == 2
    said = capfd.readouterr()
    assert said.err.count("\n") == 1
    assert "stages.0.stepz" in said.err
    assert main(["train", str(tmp_path / "absent.yaml"), "--json"]) == 2
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert last["event"] == "failed"
    assert last["error"]["place"].endswith("absent.yaml")


def test_overrides_reach_lists_and_are_read_as_yaml(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps(DOCUMENT))
    loaded = load_experiment(
        file, ["stages.0.steps=7", "stages.0.terms.answer=0.5", "resources.workers=3", "model.train=[text]"]
    )
    assert loaded.stages[0].steps == 7
    assert loaded.stages[0].terms["answer"].weight == 0.5
    assert loaded.resources.workers == 3
    assert loaded.model.train == ("text",)


@pytest.mark.parametrize("wrong", ["stages.3.steps=1", "stages.first.steps=1", "name.x=1", "steps", "seed=["])
def test_a_wrong_override_is_refused(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps(DOCUMENT))
    with pytest.raises(FinedeficsError, match=r"--set ") as refused:
        load_experiment(file, [wrong])
    assert refused.value.exit_code == 2


def test_the_digest_follows_what_determines_the_weights() -> None:
    base = parse_experiment(DOCUMENT, place="test")
    same = changed(name="two", tracking={"experiment": "other"}, evaluation={"split": "val"})
    assert parse_experiment(same, place="test").digest() == base.digest()
    for other in (changed(seed=1), changed(stages__0__steps=5)):
        assert parse_experiment(other, place="test").digest() != base.digest()
    written_out = changed(adapters={"kind": "full", "rank": 8})
    assert parse_experiment(written_out, place="test").digest() == base.digest()


def test_a_feed_that_a_stage_has_not_makes_no_other_digest() -> None:
    assert parse_experiment(DOCUMENT, place="test").digest() == "6780a61a54b3"
    unused = changed(data__inferred_probability=0.9)
    assert parse_experiment(unused, place="test").digest() == "6780a61a54b3"
    fed = changed(stages__0__feeds__inferred=8)
    sure = changed(stages__0__feeds__inferred=8, data__inferred_probability=0.9)
    digests = {parse_experiment(one, place="test").digest() for one in (DOCUMENT, fed, sure)}
    assert len(digests) == 3


def test_inferred_labels_are_learned_as_answers_alone() -> None:
    document = changed(stages__0__feeds={"inferred": 8})
    (stage,) = parse_experiment(document, place="test").stages
    assert objective_settings(stage).terms["answer"].feeds == ("inferred",)
    for term in sorted(TERM_FEEDS.keys() - {"answer"}):
        document["stages"][0]["terms"] = {"answer": 1, term: {"weight": 1, "feeds": ["inferred"]}}
        with pytest.raises(FinedeficsError, match=f"term {term} is not defined on feed inferred"):
            parse_experiment(document, place="test")


def test_a_trial_without_adapters_ignores_what_was_sampled_for_them() -> None:
    for kind, rank in (("full", 8), ("lora", 16)):
        trial = trial_experiment(DOCUMENT, {"adapters.kind": kind, "adapters.rank": 16}, "ranks")
        assert (trial.adapters.kind, trial.adapters.rank) == (kind, rank)


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=2, max_size=6))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    assert digest_of(dict(reversed(list(value.items())))) == digest_of(value)


def test_a_term_without_weight_takes_no_part() -> None:
    document = changed(stages__0__terms={"answer": 1, "object_attribute": 0})
    settings = objective_settings(parse_experiment(document, place="test").stages[0])
    assert set(settings.terms) == {"answer"}


def test_the_arms_differ_in_stages_alone_and_train_for_as_long() -> None:
    defaults = {"data.dataset": "birds", "model.path": "base"}
    loaded = {arm: load_experiment(HERE / "arms" / f"{arm}.yaml", [], defaults) for arm in ARMS}
    assert {arm: sum(s.steps for s in e.stages) for arm, e in loaded.items()} == dict.fromkeys(ARMS, 80)
    rest = {e.model_copy(update={"name": "x", "stages": ()}).model_dump_json() for e in loaded.values()}
    assert len(rest) == 1


def test_the_schema_documents_every_field() -> None:
    schema = Experiment.model_json_schema()
    assert set(schema["properties"]) >= {"data", "model", "stages", "resources", "deepspeed", "evaluation"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("spice: {}", "unknown key `spice`"),
        ("space: {data.negatives: {choice: [0], uniform: [0, 1]}}", "exactly one of"),
        ("space: {data.negatives: {uniform: [1, 0]}}", "lower and a higher end"),
        ("experiment: absent.yaml", "no such experiment file"),
    ],
)
def test_a_wrong_search_is_refused(tmp_path: Path, change: str, message: str) -> None:
    key = change.split(":")[0]
    lines = {
        "name": "name: s",
        "experiment": "experiment: one.yaml",
        "space": "space: {data.negatives: {choice: [0, 1]}}",
    }
    lines[key] = change
    (tmp_path / "one.yaml").write_text(json.dumps(DOCUMENT))
    (tmp_path / "search.yaml").write_text("\n".join(lines.values()))
    with pytest.raises(FinedeficsError, match=message) as refused:
        load_search(tmp_path / "search.yaml")
    assert refused.value.exit_code == 2

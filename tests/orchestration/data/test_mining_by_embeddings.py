"""Mining by embeddings on a real cluster: pictures of colours whose nearest categories are known."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bird_folder import put
from PIL import Image

from finedefics.errors import FinedeficsError
from finedefics.evaluation.chance import near_chance
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.cli.mine import tuned_folder
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.data import embeddings as embedding
from finedefics_platform.data.describing import describe
from finedefics_platform.data.embeddings import embed, named_embedder
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.mining import choose, mine
from finedefics_platform.data.store import open_dataset
from finedefics_platform.evaluation.encoders import default_answers, evaluate_encoder

EMBEDDER = str(Path(__file__).parents[2] / "colour_embedder.py")
COLOURS = {"red": (220, 30, 30), "orange": (220, 110, 30), "blue": (30, 30, 220), "navy": (60, 20, 160)}
NEAREST = {"red": "orange", "orange": "red", "blue": "navy", "navy": "blue"}


def patch(colour: tuple[int, int, int], number: int) -> bytes:
    rng = np.random.default_rng([*colour, number])
    pixels = np.clip(np.array(colour) + rng.normal(0, 8, (16, 16, 3)) + rng.normal(0, 3, 3), 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()


def write_colours(root: Path, *, test_shift: int = 0, names: list[str] | None = None) -> Path:
    for name, colour in COLOURS.items():
        for split, count in (("train", 5), ("val", 2), ("test", 3)):
            for i in range(count):
                number = {"train": 0, "val": 100, "test": 200 + test_shift}[split] + i
                put(root, f"{split}/{name}/{number}.png", patch(colour, number))
    if names:
        lines = [json.dumps({"name": name, "description": f"a {name} patch"}) for name in names]
        (root / "categories.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture
def colours(workspace: Workspace, tmp_path: Path, ray_cluster: Any) -> str:
    return ingest(workspace, "colours", write_colours(tmp_path / "colours"), row_group_rows=8).reference


def test_the_nearest_category_is_the_one_that_was_planted(workspace: Workspace, colours: str) -> None:
    dataset = mine(workspace, colours, embedder=EMBEDDER, keep=2)
    for split in ("train", "test"):
        for sample in dataset.samples(split):
            assert sample.negatives[0] == NEAREST[str(sample.category_id)]
            assert len(sample.negatives) == 2
    assert {one: others[0] for one, others in dataset.neighbours().items()} == NEAREST
    ids = sorted(COLOURS)
    groups = dataset.table("row_groups").to_pylist()
    assert all(group["likes"] == group["categories"] for group in groups)
    assert {ids[i] for group in groups for i in group["likes"]} == set(COLOURS)
    assert dataset.manifest["provenance"]["negatives"]["most"] == 2
    assert [f.name for f in dataset.files("negatives")] != [f.name for f in dataset.files("samples")]
    tables = [dataset.table(name, ["sample_id"])["sample_id"] for name in ("samples", "negatives")]
    assert tables[0].equals(tables[1])


def test_embeddings_are_made_once_and_parts_that_are_there_stay(
    workspace: Workspace, colours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(workspace, colours)
    named = named_embedder(workspace, EMBEDDER, dataset.categories())
    made = embed(workspace, dataset, named)
    first = made.part(0)
    shapes = [made.part(number).shape for number in range(len(dataset.files("samples")))]
    assert shapes == [(sum(g.rows for g in groups), 3) for groups in dataset.groups_of_file()]
    # a part that is there is not made again: marked, it stays as it is
    (made.place / "about.json").delete()
    embedding.write_array(made.place / "part-000000.npy", first + 1)
    assert np.array_equal(embed(workspace, dataset, named).part(0), first + 1)
    embedding.write_array(made.place / "part-000000.npy", first)
    with monkeypatch.context() as patched:
        patched.setattr(embedding, "run_in_actors", None)  # nothing is run
        assert embed(workspace, dataset, named).place == made.place


def test_an_edited_file_is_another_embedder_whatever_its_id(
    workspace: Workspace, colours: str, tmp_path: Path
) -> None:
    """Far from length 1 and turned around by the edit; what is compared is normalised all the same."""
    file, dataset = tmp_path / "long.py", open_dataset(workspace, colours)
    code = Path(EMBEDDER).read_text().replace("return normalised(", "return SCALE * normalised(")
    made, said = [], []
    for scale in (1e4, -1e4):
        file.write_text(code.replace("SCALE", str(scale)))
        made.append(embed(workspace, dataset, named_embedder(workspace, str(file), dataset.categories())))
        said.append(evaluate_encoder(workspace, str(file), colours, SETTINGS))
    assert made[0].embedder_id != made[1].embedder_id
    assert np.array_equal(made[0].part(0), -made[1].part(0))
    assert np.allclose(np.linalg.norm(made[0].part(0), axis=1), 1)
    assert said[0].place != said[1].place
    assert all(row["correct"] for row in said[1].items().to_pylist() if row["answer"] == "knn")


MINER = """
from finedefics.mining import MINERS


@MINERS.register("listed")
class Listed:
    miner_id = "listed-1"

    def __init__(self, categories, argument):
        self.ids = sorted(category.category_id for category in categories)

    def __call__(self, pictures, keep=16):
        return [[(self.ids[PLACE], 1.0)] for picture in pictures]
"""


def test_an_edited_file_is_another_miner_whatever_its_id(
    workspace: Workspace, colours: str, tmp_path: Path
) -> None:
    file = tmp_path / "listed.py"
    for place, name in ((0, "blue"), (1, "navy")):
        file.write_text(MINER.replace("PLACE", str(place)))
        mined = mine(workspace, colours, miner=str(file))
        assert {sample.negatives for sample in mined.samples("train")} == {(name,)}


class Broken:
    """Knows no direction for one picture."""

    dim, embedder_id = 2, "broken"

    def __init__(self, argument: str | None, settings: Any) -> None:
        pass

    def embed_pictures(self, images: list[bytes]) -> np.ndarray:
        return np.full((len(images), 2), np.nan, np.float32)


def test_an_embedding_that_is_not_finite_names_its_sample(
    workspace: Workspace, colours: str, tmp_path: Path
) -> None:
    file = tmp_path / "broken.py"
    code = Path(__file__).read_text().partition("class Broken:")[2].partition("\n\n\ndef ")[0]
    head = "from typing import Any\nimport numpy as np\nfrom finedefics.embedders import EMBEDDERS\n\n\n"
    file.write_text(f"{head}@EMBEDDERS.register('broken')\nclass Broken:{code}\n")
    with pytest.raises(FinedeficsError, match=r"sample \w+: its embedding holds NaN") as caught:
        mine(workspace, colours, embedder=str(file))
    ids = open_dataset(workspace, colours).table("samples", ["sample_id"])["sample_id"].to_pylist()
    assert caught.value.place.removeprefix("sample ") in ids


def test_the_best_that_the_data_allows_is_taken(workspace: Workspace, colours: str, tmp_path: Path) -> None:
    with pytest.raises(FinedeficsError, match=r"nothing can be compared.*--embedder clip:MODEL"):
        mine(workspace, colours)
    named = ingest(workspace, "named", write_colours(tmp_path / "named", names=list(COLOURS)))
    choice = choose(named)
    assert (choice.embedder, choice.why) == (
        "descriptions",
        "4 of 4 categories and 0 pictures have a description",
    )
    assert choose(named, embedder=EMBEDDER).why == "as asked"
    assert choose(named, embedder="attributes").miner == "attributes"
    mined = mine(workspace, "named")
    assert all(len(sample.negatives) == 3 for sample in mined.samples("train"))
    assert mined.manifest["provenance"]["negatives"]["chosen"] == "--embedder descriptions"


WORDS = {"red": "warm sunny", "orange": "warm dusty", "blue": "cool icy", "navy": "cool dark"}


def test_categories_without_a_text_are_known_by_their_pictures_descriptions(
    workspace: Workspace, tmp_path: Path, ray_cluster: Any
) -> None:
    root = write_colours(tmp_path / "told")
    notes = [
        {"image": f"{file.relative_to(root)}", "split": file.parts[-3], "category": name}
        | {"description": f"a {words} patch"}
        for name, words in WORDS.items()
        for file in sorted(root.glob(f"*/{name}/*.png"))
    ]
    (root / "annotations.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    ingest(workspace, "told", root)
    described = describe(workspace, "told")
    assert choose(described).embedder == "descriptions"
    mined = mine(workspace, "told", keep=1)
    found = {sample.category_id: sample.negatives for sample in mined.samples("test")}
    assert found == {"red": ("orange",), "orange": ("red",), "blue": ("navy",), "navy": ("blue",)}


def test_a_tuned_model_is_called_as_everywhere(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    assert tuned_folder(workspace, f"tuned:{tmp_path}") == f"tuned:{tmp_path / 'model'}"
    assert tuned_folder(workspace, "vision:tuned") == "vision:tuned"


SETTINGS = Evaluation(answers=("knn", "linear_probe"), options=3)


def test_an_encoder_answers_as_an_ordinary_evaluation(workspace: Workspace, colours: str) -> None:
    mined = mine(workspace, colours, embedder=EMBEDDER)
    done = evaluate_encoder(workspace, EMBEDDER, mined.reference, SETTINGS)
    rows = done.items().to_pylist()
    assert {(row["answer"], row["scope"]) for row in rows} == {
        (answer, scope) for answer in SETTINGS.answers for scope in ("all", "options")
    }
    assert len(rows) == 4 * 12
    assert all(row["correct"] for row in rows if row["answer"] == "knn")
    said = done.summary
    assert (said["dataset"], said["pictures"]) == (mined.reference, 12)
    assert said["model_digest"].startswith("colour-1-colour_embedder.py-")
    assert said["able"] == {"knn": 4, "linear_probe": 4}
    assert said["chosen"]["knn"]["chosen_on"] == "val"
    assert said["pictures_per_second"]["knn"] > 0
    assert (done.summary["leaks"]["pictures"], done.summary["leaks"]["of"]) == (0, done.summary["pictures"])
    assert done.summary["near_chance"] == near_chance(done.items(), done.summary["chance"])
    assert evaluate_encoder(workspace, EMBEDDER, mined.reference, SETTINGS).place == done.place


def test_test_pictures_decide_nothing(workspace: Workspace, colours: str, tmp_path: Path) -> None:
    """Other test pictures, some with a wrong label: centroids, k and probe stay what they were."""
    root = write_colours(tmp_path / "other", test_shift=50)
    for i in range(3):  # navy patches that the test split calls red
        put(root, f"test/red/{900 + i}.png", patch(COLOURS["navy"], 900 + i))
    other = ingest(workspace, "other", root, row_group_rows=8)
    found = []
    for reference in (colours, other.reference):
        dataset = open_dataset(workspace, reference)
        named = named_embedder(workspace, EMBEDDER, dataset.categories())
        made = embed(workspace, dataset, named)
        done = evaluate_encoder(workspace, EMBEDDER, reference, SETTINGS)
        found.append((embedding.category_rows(made, dataset, named), done.summary["chosen"]))
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_what_has_no_labelled_training_picture_is_never_named(
    workspace: Workspace, tmp_path: Path, ray_cluster: Any
) -> None:
    root = write_colours(tmp_path / "new")
    for file in (root / "train/navy").iterdir():
        file.unlink()
    dataset = ingest(workspace, "new", root)
    done = evaluate_encoder(workspace, EMBEDDER, dataset.reference, SETTINGS)
    rows = done.items().to_pylist()
    new = [row for row in rows if row["group"] == "new"]
    assert {row["category_id"] for row in new} == {"navy"}
    assert len(new) == 3 * 4
    assert not any(row["correct"] for row in new)
    assert done.summary["able"] == {"knn": 3, "linear_probe": 3}
    zero_shot = SETTINGS.model_copy(update={"answers": ("zero_shot",)})
    with pytest.raises(FinedeficsError, match="the answer zero_shot compares pictures with texts"):
        evaluate_encoder(workspace, EMBEDDER, "new", zero_shot)
    with pytest.raises(FinedeficsError, match="it embeds no pictures"):
        evaluate_encoder(workspace, "descriptions", "new", SETTINGS)


def test_without_a_label_to_learn_from_nothing_is_embedded(
    workspace: Workspace, tmp_path: Path, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "held"
    for name, colour in COLOURS.items():
        put(root, f"test/{name}/1.png", patch(colour, 1))
    dataset = ingest(workspace, "held", root)
    monkeypatch.setattr(embedding, "run_in_actors", None)  # nothing is run
    with pytest.raises(FinedeficsError, match="no picture of the split train has a label to learn from"):
        evaluate_encoder(workspace, EMBEDDER, dataset.reference, SETTINGS)
    both = tmp_path / "both.py"
    words = "    def embed_texts(self, texts):\n        return normalised(np.ones((len(texts), 3)))\n"
    both.write_text(Path(EMBEDDER).read_text().rstrip() + "\n\n" + words)
    assert default_answers(workspace, str(both), "held") == ("zero_shot",)
    assert default_answers(workspace, EMBEDDER, "held") == ("knn", "linear_probe")


def test_commands(workspace: Workspace, colours: str, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    assert main(["data", "mine", "colours", "--embedder", EMBEDDER, "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert next(line for line in lines if line["event"] == "chosen")["why"] == "as asked"
    assert main(["evaluate", "--encoder", EMBEDDER, "--data", "colours", "--json"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert last["tables"]["all"]["knn"]["labelled"]["accuracy"] == 1.0
    assert main(["evaluate", "--encoder", EMBEDDER, "--data", "colours", "--split", "val"]) == 0
    assert "linear_probe: l2" in capfd.readouterr().out
    assert main(["evaluate", "--data", "colours"]) == 2
    assert "neither a model nor an encoder is named" in capfd.readouterr().err
    assert main(["data", "mine", "colours", "--miner", "confusions:nothing"]) == 2
    assert "there is no such evaluation; choose one of:" in capfd.readouterr().err

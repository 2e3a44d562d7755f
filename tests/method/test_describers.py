"""The describer "annotations": the source's words, or words written from its attributes."""

from finedefics.describers import DESCRIBERS, Subject, write_description


def test_annotated_text_is_kept_and_attributes_are_written_up() -> None:
    describer = DESCRIBERS["annotations"]()
    told, written, silent = describer(
        [
            Subject("a", description="a small brown bird", attributes={"tail": "short"}),
            Subject("b", attributes={"crown": "red", "belly": "blue", "wing_bars": "2"}),
            Subject("c"),
        ]
    )
    assert told is not None
    assert (told.text, told.attributes) == ("a small brown bird", {"tail": "short"})
    assert written is not None
    assert written.text == "red crown, blue belly and 2 wing bars"
    assert silent is None


def test_the_describer_id_names_the_describer_and_repeats() -> None:
    first, second = DESCRIBERS["annotations"](), DESCRIBERS["annotations"]()
    assert first.describer_id == second.describer_id
    assert first.describer_id.startswith("annotations-")


def test_writing_descriptions_of_few_attributes() -> None:
    assert write_description({}) == ""
    assert write_description({"tail": "black"}) == "black tail"
    assert write_description({"tail": "black", "beak": "red"}) == "black tail and red beak"

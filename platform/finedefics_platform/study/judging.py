"""What inferred labels are worth: counted against the truth of a drawn world."""

from collections.abc import Mapping

from finedefics_platform.data.store import Dataset


def judge_labels(dataset: Dataset, truth: Mapping[str, str]) -> dict[str, float]:
    """Figures of a dataset's table of labels.

    Args:
        truth: a category's name by the picture's file; a picture that is not there is of none, so whatever
            it is taken for is wrong.

    Returns:
        ``labels/coverage``: labels accepted, of all pictures asked about; ``labels/precision``: right ones
        of those accepted, absent where none is; ``labels/promised``: the precision at the threshold on the
        pictures whose label is known, absent where the labeller could not be scored.
    """
    names = {category.category_id: category.name for category in dataset.categories()}
    said = dataset.manifest["provenance"]["labels"]
    accepted = right = 0
    for group in dataset.row_groups():
        rows = dataset.read(group, {"samples": ["source"], "labels": ["category_id", "probability"]})
        columns = (rows[name].to_pylist() for name in ("source", "category_id", "probability"))
        for source, category, probability in zip(*columns, strict=True):
            if category is not None and probability >= said["threshold"]:
                accepted += 1
                right += truth.get(source) == names[category]
    figures = {"labels/coverage": accepted / said["asked"]}
    if accepted:
        figures["labels/precision"] = right / accepted
    if said["threshold_scored"]:
        figures["labels/promised"] = said["threshold_scored"]["precision"]
    return figures

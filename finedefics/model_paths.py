"""Whether a model is called by a place on a disk, and whether a model stands there; light to import."""

from pathlib import Path

from finedefics.errors import wrong_use

CURE = "give a folder with config.json and safetensors, or the name of a model on the hub"


def is_path(name: str) -> bool:
    """Whether a model's name is a folder's; other names are the hub's (``organisation/model``)."""
    if ":" in name.partition("/")[0]:  # an address, or a name of the platform's own
        return False
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).expanduser().is_dir()


def check_there(name: str) -> None:
    """Refuse a folder without a model, before anything is started for it; a hub's name passes.

    Raises:
        FinedeficsError: there is no such folder, or no config.json is in it (exit code 2).
    """
    if not is_path(name):
        return
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise wrong_use("there is no such folder of a model", place=name, cure=CURE)
    if not (folder / "config.json").is_file():
        raise wrong_use("no model is in this folder", place=name, cure=CURE)

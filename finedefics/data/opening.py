"""Opening a tree: what lies at a place decides how it is read."""

import os

from finedefics.data.archives import open_archive
from finedefics.data.keeping import Keep, keep_for_now
from finedefics.data.tree import FolderTree, StoreTree, Tree
from finedefics.errors import wrong_use


def open_tree(place: str | os.PathLike[str], *, keep: Keep = keep_for_now) -> Tree:
    """Open a folder, an archive (zip, tar, compressed tar), or a folder of an object store by its URI.

    Args:
        keep: where unpacked files are kept, ``keep(way, make) -> path``; for this process's time by default.

    Raises:
        FinedeficsError: nothing is there, or it is neither folder nor archive (exit code 2).
    """
    text = os.fspath(place)
    if "://" in text and not text.startswith("file://"):
        return _named(StoreTree(text, keep=keep))
    path = os.path.abspath(os.path.expanduser(text.removeprefix("file://")))
    if os.path.isdir(path):
        return _named(FolderTree(path, keep=keep))
    if not os.path.isfile(path):
        raise wrong_use(
            "there is no such folder or file", place=text, cure="give the path of a folder of pictures"
        )
    return _named(open_archive(path, keep))


def _named(tree: Tree) -> Tree:
    return tree.reopened_by(open_tree, tree.place)  # in another process, its kind is found anew

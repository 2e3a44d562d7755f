"""A user's own file on its way to other processes: it is on this machine only, so its code travels."""

import copyreg
from collections.abc import Callable
from functools import cached_property
from typing import Any

from finedefics.registry import file_modules


def let_user_code_travel() -> None:
    """Before a task or actor is given a component: modules made from users' files are pickled by value."""
    import ray.cloudpickle

    # Until Python 3.12 a cached property holds a lock, which does not travel, and users' classes have such.
    copyreg.pickle(cached_property, _parts_of)
    for module in file_modules():
        ray.cloudpickle.register_pickle_by_value(module)


def _parts_of(found: "cached_property[Any]") -> tuple[Any, ...]:
    return _put_together, (found.func, found.attrname)


def _put_together(function: Callable[[Any], Any], name: str | None) -> "cached_property[Any]":
    made = cached_property(function)
    if name is not None:  # else given by the class, which does so only where it is written out
        made.__set_name__(object, name)
    return made

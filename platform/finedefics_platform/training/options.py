"""DeepSpeed's own settings in an experiment, refused where DeepSpeed knows none such."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from finedefics.errors import FinedeficsError, reason_of, wrong_use
from finedefics_platform.training.sharding import prepare_deepspeed

_PLACE = "deepspeed.options"


def check_options(settings: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse options that DeepSpeed does not know, which it would ignore or fail on in every worker.

    Args:
        settings: the whole configuration, as `deepspeed_settings` gives it.
        options: the experiment's part of it; without any, DeepSpeed is not even imported.

    Raises:
        FinedeficsError: a key is unknown or a value is refused (exit code 2).
    """
    if not options:
        return
    from pydantic import ValidationError

    prepare_deepspeed()
    from deepspeed.runtime.config import DeepSpeedConfig

    asked = _Asked(settings)
    try:
        DeepSpeedConfig(asked)
    except ValidationError as error:
        raise _explained(error, options) from error
    except (AssertionError, ValueError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, FinedeficsError):
            raise
        raise wrong_use(
            f"DeepSpeed refuses it ({reason_of(error)})", place=_PLACE, cure="correct the value"
        ) from error
    for name in options:
        if name not in asked.names:
            raise _unknown(name, sorted(asked.names))


class _Asked(dict[str, Any]):
    """A configuration that notes which keys it was asked for: DeepSpeed has no list of those it knows."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.names: set[str] = set()

    def __copy__(self) -> "_Asked":
        return self

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def keys(self) -> Any:
        return _AskedKeys(self)


class _AskedKeys:
    """The keys of such a configuration, for those who look there whether one is set."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked

    def __contains__(self, name: object) -> bool:
        return name in self._asked

    def __iter__(self) -> Iterator[str]:
        return iter(self._asked)


def _explained(error: Any, options: Mapping[str, Any]) -> FinedeficsError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    # each section is read apart, so the error does not say which one it stands in
    section = next((name for name, value in options.items() if _holds(value, first["loc"])), None)
    full = f"{section}.{key}" if section else key
    if first["type"] == "extra_forbidden":
        return _unknown(full, [])
    return wrong_use(f"{full} is wrong: {first['msg']}", place=_PLACE, cure="correct the value")


def _holds(value: Any, path: Sequence[Any]) -> bool:
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _unknown(key: str, known: list[str]) -> FinedeficsError:
    near = get_close_matches(key, known, n=3)
    also = f", or use one of {', '.join(near)}" if near else ""
    return wrong_use(f"DeepSpeed knows no {key!r}", place=_PLACE, cure=f"leave it out{also}")

"""The errors a user can meet: one line that names the thing, the place and the cure."""


class FinedeficsError(ValueError):
    """A mistake in the input, the configuration or the surroundings that the user can mend.

    Attributes:
        thing: what is wrong, as a short clause ("the folder does not exist").
        place: where it stands: a path, a key of the experiment, a row.
        cure: what to do about it, as an imperative ("give the path of a folder of images").
        exit_code: 1 when a valid request failed, 2 when the request itself was wrong.
    """

    def __init__(self, thing: str, *, place: str, cure: str, exit_code: int = 1) -> None:
        self.thing, self.place, self.cure, self.exit_code = thing, place, cure, exit_code
        super().__init__(" ".join(f"{place}: {thing}; {cure}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        # An error raised in a Ray task crosses a process boundary; keyword-only arguments need help.
        return (_rebuild, (type(self), self.thing, self.place, self.cure, self.exit_code))


def _rebuild(
    kind: type[FinedeficsError], thing: str, place: str, cure: str, exit_code: int
) -> FinedeficsError:
    return kind(thing, place=place, cure=cure, exit_code=exit_code)


def wrong_use(thing: str, *, place: str, cure: str) -> FinedeficsError:
    """An error of the request itself (exit code 2): unknown key, unknown name, contradictory options."""
    return FinedeficsError(thing, place=place, cure=cure, exit_code=2)


def reason_of(error: BaseException) -> str:
    """What an error of somebody else's code says, in one line; its kind where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]

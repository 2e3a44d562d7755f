"""Where a table of a dataset comes from, in one line."""


def told(provenance: dict[str, object]) -> tuple[str, str]:
    """A table's step, and what it was made from in one line."""
    hidden = ("step", "layout", "pictures", "attributes")
    # figures by attribute or reason have tables of their own; --json has all
    shown = {k: v for k, v in provenance.items() if k not in hidden and not isinstance(v, dict | list)}
    return str(provenance.get("step", "")), ", ".join(f"{k} {v}" for k, v in shown.items())

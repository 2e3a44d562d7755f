"""Shades: words that say more exactly what a plainer word says.

The basic colour terms of English, with names of their shades, and words that shade any value ("bright red",
"long tail"). Whether a shade is told apart is for the data to say: see `vocabulary.Closing.exception`.
"""

from finedefics.describers.normal_form import stem

_OF_COLOURS = {
    "red": "crimson scarlet ruby cherry vermilion carmine brick maroon burgundy",
    "brown": "chestnut chocolate cinnamon tan sepia umber russet coffee walnut",
    "orange": "amber tangerine apricot peach rust copper",
    "yellow": "golden gold lemon mustard saffron canary straw",
    "green": "emerald olive lime moss jade mint khaki",
    "blue": "azure navy cobalt sapphire indigo cerulean ultramarine turquoise cyan sky",
    "purple": "violet lilac lavender mauve magenta plum",
    "pink": "rose salmon coral fuchsia",
    "grey": "slate ash silver charcoal leaden",
    "black": "ebony jet sooty inky",
    "white": "ivory snowy cream chalk milky pearl",
}
_OF_ANYTHING = (
    "bright dark deep dull faint glossy intense light medium muted pale rich soft strong vivid brilliant "
    "pure small large big tiny long short thin thick fine bold prominent distinct"
)
_PLAIN = {stem(shade): stem(colour) for colour, shades in _OF_COLOURS.items() for shade in shades.split()}
_DROPPED = frozenset(stem(word) for word in _OF_ANYTHING.split())


def unshaded(form: tuple[str, ...]) -> tuple[str, ...]:
    """A normal form without its shades; the form itself where it has none, or is nothing else."""
    plain = tuple(sorted({_PLAIN.get(word, word) for word in form if word not in _DROPPED}))
    return plain or form

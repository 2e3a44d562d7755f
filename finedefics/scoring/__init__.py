"""How a model answers: each answer is one strategy that scores the categories for every picture.

============================  ==================================================================
``names``                     likelihood of each name as the answer to the open question
``names_corrected``           the same, less the name's likelihood without the picture
``names_free``                the generated answer, matched strictly to a name
``names_open``                … matched where case, punctuation, articles and plural do not count
``alignment``                 similarity with the category index, one forward pass; calibrated where
                              the index says so
``alignment_plain``           … never calibrated: the cosine
``alignment_calibrated``      … always: 2·cosine less the category's likeness to its nearest ten
                              training pictures, so that no text is near to everything
``alignment_names``           … with the names alone
``alignment_descriptions``    … with the descriptions alone
``describe``                  write a description, then the likelihood of each name after it
``describe_sampled``          … the mean over eight descriptions drawn from the model
``letters``                   multiple choice: the generated letter, read strictly
``letters_foci``              … read as the FOCI benchmark reads it
``letters_likelihood``        … the likelihood of each option's letter, nothing generated
``ensemble``                  names and alignment, weighted as a validation split decided
============================  ==================================================================

A new answer is one class with its settings as fields, registered by name in its own file. Imports run one
way, and import-linter holds it: language, weighing, calibration, thresholds and how words are read, the
index, the model that is asked, answers, the strategies, and the recogniser that calls them by name.
"""

from finedefics.scoring import alignment, describe, ensemble, letters, names
from finedefics.scoring.answers import (
    ANSWERS,
    Answer,
    Answered,
    as_mapping,
    best_category,
    is_graded,
    multiple_choice,
)
from finedefics.scoring.asked import AskedModel, Pictures
from finedefics.scoring.calibration import Calibration, Trial
from finedefics.scoring.index import CategoryIndex
from finedefics.scoring.letters import shown
from finedefics.scoring.naming import named, normalised
from finedefics.scoring.parsing import parse_letter, parse_letter_foci
from finedefics.scoring.recogniser import Recogniser
from finedefics.scoring.unknown import Unknown
from finedefics.scoring.weighing import EnsembleWeight, choose_weight

__all__ = [
    "ANSWERS",
    "Answer",
    "Answered",
    "AskedModel",
    "Calibration",
    "CategoryIndex",
    "EnsembleWeight",
    "Pictures",
    "Recogniser",
    "Trial",
    "Unknown",
    "alignment",
    "as_mapping",
    "best_category",
    "choose_weight",
    "describe",
    "ensemble",
    "is_graded",
    "letters",
    "multiple_choice",
    "named",
    "names",
    "normalised",
    "parse_letter",
    "parse_letter_foci",
    "shown",
]

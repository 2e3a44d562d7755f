"""What a run will take, told before it starts: parameters, tokens, memory a rank, and what to change.

Figures come from the model's configuration and from batches that are collated for real where data and
processor are at hand; no weights are loaded.
"""

from finedefics_platform.training.forecast.cards import GIB, bytes_of, card_memory
from finedefics_platform.training.forecast.fitting import Change, changes_that_fit, refuse_what_fits_nowhere
from finedefics_platform.training.forecast.forecast import Forecast, StageForecast, forecast
from finedefics_platform.training.forecast.memory import Portion

__all__ = [
    "GIB",
    "Change",
    "Forecast",
    "Portion",
    "StageForecast",
    "bytes_of",
    "card_memory",
    "changes_that_fit",
    "forecast",
    "refuse_what_fits_nowhere",
]

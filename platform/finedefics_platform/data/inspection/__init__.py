"""What is in a dataset version: counts, sizes, attributes, neighbours, near duplicates, pictures to look at.

Nothing here holds more of a dataset than some numbers a picture: tables are read file by file and only the
columns that are asked for, and pictures are read only to be shown.
"""

from finedefics_platform.data.inspection.counts import Inspection, inspect, quarantine_reasons
from finedefics_platform.data.inspection.pictures import Shown, agreement, choose_rows, show

__all__ = ["Inspection", "Shown", "agreement", "choose_rows", "inspect", "quarantine_reasons", "show"]

"""Hard negatives: for each picture the wrong categories that are most easily taken for the right one.

=================  ====================================================================================
``provided``       those that the source names
``attributes``     categories that share most attributes with the picture
``confusions:X``   categories that the answers of an evaluation confuse
=================  ====================================================================================

An embedder (`finedefics.embedders`) ranks them by similarity as well, by `EmbeddingMiner`. A miner ranks
categories once; a search over the number of negatives takes a prefix of the ranking. A new miner is one class
in a file of its own, registered by name.
"""

from finedefics.mining.attributes import AttributeMiner, nearest_categories
from finedefics.mining.base import KEEP, MINERS, Confusable, Miner, Ranking
from finedefics.mining.embedded import EmbeddingMiner
from finedefics.mining.topk import Ranked, check_finite, nearest

__all__ = [
    "KEEP",
    "MINERS",
    "AttributeMiner",
    "Confusable",
    "EmbeddingMiner",
    "Miner",
    "Ranked",
    "Ranking",
    "check_finite",
    "nearest",
    "nearest_categories",
]

"""Labellers: what pictures without a label are taken for, so that they can be trained on as well.

The last column says on whose labelled pictures a labeller is scored:

===================  ===================================================================  ================
``reading:MODEL``    a language model names the category from the description alone   train and val
``alignment:MODEL``  a tuned model's own answer: the picture against texts            val
``agreement:RUN``    both, where they agree; the model that the run began from reads  val
``file:PATH``        what somebody inferred elsewhere                                 train and val
===================  ===================================================================  ================

MODEL is a folder or a hub name. An inference is no label: it stands in a table of its own, with its
probability, and each labeller is scored on pictures whose label is known before it is believed.

A new labeller is one class in a file of its own, registered by name: in an installed package (entry points of
the group ``finedefics.labellers``), or in a ``.py`` file whose path is given as the name.
"""

from finedefics.labellers.contract import LABELLERS, Given, Inferred, Labeller, Unnamed

__all__ = ["LABELLERS", "Given", "Inferred", "Labeller", "Unnamed"]

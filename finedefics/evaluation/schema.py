"""The columns of an item table: a row for each picture, answer, scope and rotation."""

import pyarrow as pa

ITEMS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("category_id", pa.string()),
        ("group", pa.string()),
        ("answer", pa.string()),
        ("scope", pa.string()),
        ("predicted", pa.string()),
        ("correct", pa.bool_()),
        ("description", pa.string()),
        ("options", pa.list_(pa.string())),  # in the order shown; null where every category competes
        ("position", pa.int32()),  # of the truth among them, from 0; null likewise
        ("reply", pa.string()),  # what the model wrote, word for word; null where it writes nothing
        ("score", pa.float32()),  # of the prediction, by the answer itself; null where it has none
        ("rotation", pa.int32()),  # how far the order of the options was turned; 0: the ordinary order
    ]
)

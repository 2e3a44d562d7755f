"""What the names of files and folders say: which split one is of, and whether it is a table."""

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet")
LISTS = (*TABLES, ".mat")  # what says which category and split a picture beside it is of

"""Small pieces of work spread over the cluster with Ray Data, their results back in the order asked for."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from finedefics.errors import FinedeficsError
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.user_code import let_user_code_travel

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_tasks(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    chunk: int,
    label: str,
    progress: Progress,
) -> list[Result]:
    """Call ``work`` on chunks of ``items`` in Ray tasks; one result an item, in the order of the items.

    Items and results travel pickled, so that Arrow need not guess a type for them: keep pictures out.

    Raises:
        FinedeficsError: as raised by ``work``.
    """
    if not items:
        return []
    ensure_ray(progress=progress)
    import ray.cloudpickle
    import ray.data

    let_user_code_travel()
    with progress.progress(label, len(items)) as advance:
        rows = [{"index": index, "item": ray.cloudpickle.dumps(item)} for index, item in enumerate(items)]
        blocks = -(-len(rows) // chunk)
        data = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Task(work), batch_size=None, batch_format="pyarrow"
        )
        results: list[Any] = [None] * len(items)
        for batch in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(batch, pa.Table)
            for row in batch.to_pylist():
                result = pickle.loads(row["result"])
                if isinstance(result, FinedeficsError):
                    raise result
                results[row["index"]] = result
            advance(batch.num_rows)
    return results


class _Task:
    """What runs in a task: unpickle, work, pickle."""

    def __init__(self, work: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self.work = work

    def __call__(self, batch: pa.Table) -> pa.Table:
        items = [pickle.loads(item) for item in batch["item"].to_pylist()]
        try:
            results = self.work(items)
        except FinedeficsError as error:
            # Ray Data hands on the text of an exception and not the exception; a result arrives whole.
            results = [error] * len(items)
        return pa.table({"index": batch["index"], "result": [pickle.dumps(result) for result in results]})

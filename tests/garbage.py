"""What work leaves to the garbage collector: objects that refer to themselves."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(kind: type) -> Iterator[Callable[[], int]]:
    """Collect nothing meanwhile; gives how many objects of a kind there are more than at the beginning."""

    def count() -> int:
        return sum(isinstance(each, kind) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    before = count()
    try:
        yield lambda: count() - before
    finally:
        gc.enable()

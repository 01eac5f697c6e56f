"""The loader of all datamodules: it can begin in mid-epoch, and its workers neither die early nor stay."""

import signal
import weakref
from contextlib import suppress
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from typing_extensions import override


class ResumableLoader(DataLoader):
    """A loader that tells Lightning that it can continue in mid-epoch. It has no state: its sampler knows where to start.

    A signal often goes to the whole process group, and workers must live until the main process has saved: they are born
    with SIGINT and SIGTERM blocked, so there is no moment in which one could end them. Python would end them by SIGTERM
    when it exits, and then wait for ever: here they are killed.
    """

    @override
    def _get_iterator(self) -> Any:
        return WorkerIterator(self) if self.num_workers else super()._get_iterator()

    @override
    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            iterator: Any = super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        Finalize(iterator, _end_workers, (weakref.ref(iterator), iterator._workers), exitpriority=0)
        return iterator

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see :class:`~datamodules.TrainSampler`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: see :class:`~datamodules.TrainSampler`."""


class WorkerIterator(_MultiProcessingDataLoaderIter):
    """Ends its workers when one of them has met an error, a file that it cannot read, say.

    The garbage collector would do it later and close their queues first, under the threads that write into them.
    """

    @override
    def __next__(self) -> Any:
        try:
            return super().__next__()
        except StopIteration:
            raise
        except Exception:
            self._shutdown_workers()
            raise


def _end_workers(iterator: weakref.ref[Any], workers: list[Any]) -> None:
    """When the iterator is gone, or Python exits.

    The garbage collector comes here before the iterator's ``__del__``, with its queues closed already: nobody else can tell
    the workers to end. That they are killed must not look like an accident to torch, which watches them until they are joined.
    """
    living = iterator()
    if living is not None:
        with suppress(RuntimeError):  # one of them has died; training has been told
            living._shutdown_workers()
    for end in ("kill", "join"):
        for worker in workers:
            with suppress(RuntimeError):
                getattr(worker, end)()

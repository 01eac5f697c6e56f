"""What the datamodules need of Lightning, PyTorch and torchvision beyond their documented interfaces.

Only this file of the package reaches for private names, training loops and the trainer's state, so a new version of one of these
libraries can break the datamodules here and nowhere else.
"""

import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from typing_extensions import override

# Lightning -------------------------------------------------------------------------------------------------------------


def is_fitting(trainer: Trainer) -> bool:
    """Whether ``trainer.fit`` is running, its validation included."""
    return trainer.state.fn == TrainerFn.FITTING


def finished_epochs(trainer: Trainer) -> int:
    """Return the number of epochs whose batches are all trained."""
    loop: Any = trainer.fit_loop
    return loop.epoch_progress.current.processed


def trained_batches_of_epoch(trainer: Trainer) -> int:
    """Return the number of batches trained in an unfinished epoch; 0 between two epochs."""
    loop: Any = trainer.fit_loop
    epoch = loop.epoch_progress.current
    return loop.epoch_loop.batch_progress.current.processed if epoch.started > epoch.processed else 0


def fetched_batches_of_epoch(trainer: Trainer) -> int:
    """Return the index in its epoch of the training batch at hand: the trainer counts a batch after it is fetched."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def in_precision(trainer: Trainer, x: Any) -> Any:
    """Return floats in the dtype of the trainer's ``precision``."""
    return trainer.precision_plugin.convert_input(x)


# Batches ---------------------------------------------------------------------------------------------------------------


def leaves(tree: Any) -> list[Any]:
    """Return what nested tuples, lists and dicts hold: the tensors of a NamedTuple, or a tensor alone."""
    return tree_leaves(tree)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply ``function`` to what nested tuples, lists and dicts hold; their types stay."""
    return tree_map(function, tree)


def field_names(part: Any) -> tuple[str, ...] | None:
    """Return the names of a NamedTuple's fields; None for anything else."""
    return part._fields if isinstance(part, tuple) and hasattr(part, "_fields") else None


# Workers ---------------------------------------------------------------------------------------------------------------


class SteadyLoader(DataLoader):
    """A loader whose workers neither die of a signal to the process group nor outlive the main process.

    A signal often goes to the whole process group, and workers must live until the main process has saved: they are started
    with SIGINT and SIGTERM blocked, so there is no moment in which one could end them. Python would end them by SIGTERM
    when it exits, and then wait for ever: here they are killed.
    """

    @override
    def _get_iterator(self) -> Any:
        return _WorkerIterator(self) if self.num_workers else super()._get_iterator()

    @override
    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        with _blocking_signals():
            iterator: Any = super().__iter__()
        Finalize(iterator, _end_workers, (weakref.ref(iterator), iterator._workers), exitpriority=0)
        return iterator


@contextmanager
def _blocking_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM for what is started meanwhile; on Windows, which has no signal masks, do nothing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _WorkerIterator(_MultiProcessingDataLoaderIter):
    """Ends its workers when one of them has raised an error, such as for a file that it cannot read.

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
    """Run when the iterator is gone, or Python exits.

    The garbage collector comes here before the iterator's ``__del__``, with its queues closed already: nothing else can end
    the workers. For a killed worker that is not joined yet, torch raises a RuntimeError, which is suppressed.
    """
    living = iterator()
    if living is not None:
        with suppress(RuntimeError):  # one of them has died, and training has got that error
            living._shutdown_workers()
    for end in ("kill", "join"):
        for worker in workers:
            with suppress(RuntimeError):
                getattr(worker, end)()


# torchvision -----------------------------------------------------------------------------------------------------------


def pet_files(dataset: Any) -> tuple[list[str], list[str]]:
    """Return the image files of torchvision's ``OxfordIIITPet`` and the mask file of each."""
    return [str(path) for path in dataset._images], [str(path) for path in dataset._segs]

"""What a task keeps of its data and takes along: standardization, class names, the shape of an example."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from zoo.tasks.freezing import Freezable

if TYPE_CHECKING:
    from zoo.pretrained import LoadReport
    from zoo.tasks import Task


def real_device() -> torch.device:
    """The default device, but the CPU for the meta device: there only nets are built, for weights to come."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


def check_num_classes(num_classes: int, data: Any) -> None:
    """Refuse a datamodule that tells another number of classes than the model's.

    Raises:
        ValueError: both numbers, and the cure.
    """
    classes = getattr(data, "num_classes", None)
    if classes is not None and classes != num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but {type(data).__name__} has {classes} classes: leave num_classes out on the command "
            f"line, or build the model with num_classes={classes}"
        )


class Portable(Freezable):
    """A module that knows what its input means, and goes as a whole into a folder or to the hub."""

    mean: Tensor
    std: Tensor
    class_names: list[str] | None = None
    input_shape: tuple[int, ...] | None = None
    preparation: dict[str, Any] | None = None  # how files become input, in the datamodule's words
    load_report: "LoadReport | None" = None  # what became of every tensor of the weights
    _standardized = False  # whether mean and std are known: copied from data, or loaded

    def register_task_buffers(self) -> None:
        """Register the tensors that are the task's, not the net's; ``hparams`` are known. Call the parent's first."""
        self.register_buffer("mean", torch.zeros(1, device=real_device()))
        self.register_buffer("std", torch.ones(1, device=real_device()))

    def setup(self, stage: str) -> None:
        """Take what the datamodule tells, and refuse data that the net cannot take."""
        super().setup(stage)
        if self._channels_last:
            self.net.to(memory_format=torch.channels_last)
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        if not self._standardized and getattr(data, "mean", None) is not None:
            self.mean = torch.as_tensor(data.mean, dtype=torch.float32).flatten().to(self.mean.device)
            self.std = torch.as_tensor(data.std, dtype=torch.float32).flatten().to(self.std.device)
            self._standardized = True
        if getattr(data, "class_names", None) is not None:
            self.class_names = [str(name) for name in data.class_names]
        self.preparation = getattr(data, "preparation", None)
        if getattr(data, "input_shape", None) is not None:
            self.input_shape = tuple(int(n) for n in data.input_shape)
            self._try_input(self.input_shape)

    def _try_input(self, shape: tuple[int, ...]) -> None:
        """Send one zero example through the net, so that a shape it cannot take is found before anything is done."""
        if self.mean.numel() not in (1, shape[0]):
            raise ValueError(
                f"the model was standardized for {self.mean.numel()} channels, the data have {shape[0]} (shape {shape})"
            )
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                output = self.output_for(torch.zeros(1, *shape, device=self.mean.device))
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"{type(self.net).__name__} cannot take the data's input of shape {shape}: {error}"
            ) from error
        finally:
            for module, mode in modes.items():
                module.training = mode
        wanted = cast("Task", self).output_shape(shape)
        if wanted is not None and (got := tuple(getattr(output, "shape", ()))[1:]) != wanted:
            raise ValueError(
                f"{type(self.net).__name__} gives {got or type(output).__name__} an example, {type(self).__name__} wants "
                f"{wanted}: build the net with {wanted[0]} outputs, or the task with what the net gives"
            )

    def output_for(self, x: Tensor) -> Any:
        """What the net gives for an input without a target; asked of one example of zeros, when fit begins."""
        net: Any = self.net
        return net(self.standardize(x))

    def standardize(self, x: Tensor) -> Tensor:
        """``(x - mean) / std``, channel by channel (images, ``(B, C, ...)``) or column by column (``(B, D)``).

        Images come out with their channels last in memory where the net is faster so (``net.channels_last``).
        """
        shape = (-1, *[1] * (x.ndim - 2))
        x = (x - self.mean.view(shape)) / self.std.view(shape)
        return x.contiguous(memory_format=torch.channels_last) if self._channels_last and x.ndim == 4 else x

    @property
    def _channels_last(self) -> bool:
        return getattr(self.net, "channels_last", False)

    def data_description(self) -> dict[str, Any]:
        """What the module remembers of its data, as plain data: class names, the shape of an example, how files become one."""
        return {
            "class_names": self.class_names,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "preparation": self.preparation,
        }

    def describe_data(self, description: Mapping[str, Any]) -> None:
        """Set what :meth:`data_description` gave."""
        names, shape = description.get("class_names"), description.get("input_shape")
        self.class_names = None if names is None else list(names)
        self.input_shape = None if shape is None else tuple(shape)
        self.preparation = description.get("preparation")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("mean", "std"):  # one number before the first fit, one a channel afterwards
            loaded, buffer = state_dict.get(prefix + name), getattr(self, name)
            if loaded is not None and loaded.shape != buffer.shape:
                setattr(self, name, torch.empty(loaded.shape, dtype=buffer.dtype, device=buffer.device))
        self._standardized = self._standardized or prefix + "mean" in state_dict
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def save_pretrained(self, folder: str | Path, training: Mapping[str, Any] | None = None) -> Path:
        """Write a folder that :func:`zoo.load` reads: ``config.json``, ``model.safetensors`` (the net's keys), ``README.md``.

        Args:
            folder: made if need be.
            training: how the model was trained, plain data by name, for the card and the config.

        Returns:
            The folder.

        Raises:
            ValueError: the class is not registered (``zoo.register``), so nobody could rebuild it from the folder.
        """
        from zoo.pretrained import save_folder

        return save_folder(cast("Task", self), Path(folder), training)

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Put what :meth:`save_pretrained` writes into a repository of the Hugging Face hub, made if there is none.

        Log in once before, with ``hf auth login`` or the variable ``HF_TOKEN``.

        Args:
            repository: ``"owner/name"``; ``zoo.load`` and ``weights=`` take it.
            private: whether a repository that is made now is for its owner only.

        Returns:
            The address of the repository.

        Raises:
            ValueError: the class is not registered, or the name is none.
            ConnectionError: the hub cannot be reached, or refuses.
        """
        from zoo.pretrained.hub import upload

        return upload(cast("Task", self), repository, private)

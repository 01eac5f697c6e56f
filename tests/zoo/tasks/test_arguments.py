"""Arguments: the TypedDicts are the signatures of the tasks, the families repeat those of their nets, and all tools see them."""

import inspect
import pydoc
from collections.abc import Iterator
from typing import Any, Unpack, get_args, get_type_hints

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

import zoo
from zoo import tasks
from zoo.blocks.skeleton import skeleton
from zoo.registry import OF_NAMED_NET, arguments_of
from zoo.tasks.generative import GenerativeTask
from zoo.tasks.sampled import SampledArguments, SampledTask
from zoo.tasks.writing import WritingArguments, WritingTask

ARGUMENTS: dict[type[zoo.Task], Any] = {
    tasks.Task: tasks.TaskArguments,
    tasks.ClassificationTask: tasks.ClassificationArguments,
    tasks.DistillationTask: tasks.DistillationArguments,
    tasks.RegressionTask: tasks.RegressionArguments,
    tasks.ForecastingTask: tasks.ForecastingArguments,
    tasks.LanguageModelTask: tasks.TaskArguments,
    tasks.Seq2SeqTask: tasks.Seq2SeqArguments,
    tasks.CaptioningTask: tasks.CaptioningArguments,
    WritingTask: WritingArguments,
    tasks.SegmentationTask: tasks.SegmentationArguments,
    tasks.ReconstructionTask: tasks.ReconstructionArguments,
    tasks.VariationalTask: tasks.VariationalArguments,
    tasks.AdversarialTask: tasks.AdversarialArguments,
    SampledTask: SampledArguments,
}
ABSTRACT = {GenerativeTask}  # its arguments are in the TypedDicts of its subclasses
GIVEN_BY_THE_FAMILY = {
    "net",
    "num_classes",
    "num_outputs",
    "horizon",
    "vocab_size",
    "source_vocab_size",
    "padding",
    "net_args",
    "in_channels",
    "preprocessing",
}

# A family's own arguments are those of its net, but for the names in the first set, which the net does not have, and those in
# the second, which the family does not have.
EXCEPTIONS: dict[type[zoo.Task], tuple[set[str], set[str]]] = {
    zoo.MLPClassifier: (
        {"num_classes"},
        {"num_outputs", "output_activation"},
    ),  # the outputs of an MLP need not be classes; those of a classifier are logits
    zoo.LogisticRegressionClassifier: (
        {"num_classes", "mode", "l2"},
        {"num_outputs"},
    ),  # the mode gives the number of outputs
    zoo.PerceptronClassifier: ({"num_classes", "mode", "rule"}, set()),  # it has two classes
    zoo.RandomFeaturesClassifier: ({"ridge"}, set()),  # of how it is solved for
    zoo.FCNSegmenter: ({"encoder_args", "encoder_weights", "in_channels"}, set()),  # the net's encoder is a module
    zoo.UNetSegmenter: ({"encoder_args", "encoder_weights", "in_channels"}, set()),
    zoo.HybridClassifier: ({"encoder_args", "encoder_weights", "in_channels"}, set()),
    zoo.TransformerCaptioning: ({"encoder_args", "encoder_weights", "stage", "in_channels"}, set()),
    zoo.RecurrentCaptioning: ({"encoder_args", "encoder_weights", "stage", "in_channels"}, set()),
    zoo.SequenceClassifier: ({"num_classes", "vocab_size", "padding"}, {"num_outputs"}),  # it may read tokens, too
    zoo.SequenceRegressor: ({"vocab_size", "padding"}, set()),
}
OTHER_DEFAULTS = {  # and other types, where the family's argument is a name
    zoo.FCNSegmenter: {"encoder"},
    zoo.UNetSegmenter: {"encoder"},
    zoo.HybridClassifier: {"encoder"},
    zoo.TransformerCaptioning: {"encoder"},
    zoo.RecurrentCaptioning: {"encoder"},
    zoo.MLPRegressor: {"in_features", "num_outputs", "widths"},  # for tables, not for images
    zoo.SequenceRegressor: {"num_outputs"},  # one number, not ten classes
}


def subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


CLASSES = [getattr(zoo, name) for name in zoo.__all__]
FAMILIES = [
    cls for cls in CLASSES if inspect.isclass(cls) and issubclass(cls, zoo.Task) and cls.__module__[:10] != "zoo.tasks."
]
OURS = [
    cls for cls in [zoo.Task, *subclasses(zoo.Task)] if cls.__module__.startswith("zoo.") and "__init__" in vars(cls)
]


def hints(*classes: type) -> dict[str, Any]:
    """Types of all constructor arguments of a class and its parents (its ``__mro__``), those of the class itself first."""
    inits = [vars(base)["__init__"] for base in classes if issubclass(base, zoo.Task) and "__init__" in vars(base)]
    found: dict[str, Any] = {}
    for init in inits:
        found = get_type_hints(init) | found
    return {name: found[name] for name in found if name not in {"task", "return"}}


def test_every_task_has_a_typed_dict() -> None:
    assert {cls for cls in OURS if cls.__module__.startswith("zoo.tasks.")} == ARGUMENTS.keys() | ABSTRACT


@pytest.mark.parametrize("cls", ARGUMENTS)
def test_a_typed_dict_is_the_signature_of_its_task(cls: type[zoo.Task]) -> None:
    wanted = {name: hint for name, hint in hints(*cls.__mro__).items() if name not in GIVEN_BY_THE_FAMILY}
    assert get_type_hints(ARGUMENTS[cls]) == wanted
    assert not ARGUMENTS[cls].__required_keys__


def test_classifiers_with_a_mode_of_their_own_take_the_rest() -> None:
    wanted = get_type_hints(tasks.ClassificationArguments)
    assert get_type_hints(tasks.ClassifierArguments) == {name: hint for name, hint in wanted.items() if name != "mode"}


@pytest.mark.parametrize("cls", [cls for cls in OURS if cls is not zoo.Task])
def test_task_stands_for_the_arguments_of_the_parents(cls: type[zoo.Task]) -> None:
    own = inspect.signature(cls.__init__).parameters
    (typed,) = get_args(get_type_hints(cls.__init__)["task"])
    assert get_type_hints(cls.__init__)["task"] == Unpack[typed]
    above = hints(*cls.__mro__[1:])
    assert get_type_hints(typed) == {name: above[name] for name in above.keys() - own.keys() - set(OF_NAMED_NET)}


@pytest.mark.parametrize("cls", FAMILIES)
def test_a_family_repeats_the_arguments_of_its_net(cls: type[zoo.Task]) -> None:
    with skeleton():
        net = type(cls().net)
    more, fewer = EXCEPTIONS.get(cls, (set(), set()))
    own, theirs = (inspect.signature(c.__init__).parameters for c in (cls, net))
    assert own.keys() - {"task"} == (theirs.keys() - fewer) | more
    others = OTHER_DEFAULTS.get(cls, set())
    for name in own.keys() & theirs.keys() - {"self"}:
        assert (own[name].default == theirs[name].default) == (name not in others), name
        if name not in others:
            assert own[name].annotation == theirs[name].annotation, name


@pytest.mark.parametrize("cls", FAMILIES)
def test_the_command_line_sees_every_argument_with_its_default(cls: type[zoo.Task]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "model")
    known = arguments_of(cls)
    assert parser.get_defaults().model.as_dict() == {name: p.default for name, p in known.items()}
    config = parser.parse_args(["--model.lr=0.5", "--model.optimizer_args.momentum=0.9", "--model.weights=here"]).model
    assert (config.lr, config.optimizer_args, config.weights) == (0.5, {"momentum": 0.9}, "here")
    for wrong in ("--model.lr=fast", "--model.decay_norm_and_bias=3", "--model.learning_rate=1"):
        with pytest.raises(ArgumentError):
            parser.parse_args([wrong])


def test_the_help_of_the_command_line_describes_the_arguments_of_the_task() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(zoo.ResNetClassifier, "model")
    text = " ".join(parser.format_help().split())
    assert "A :class:`ResNet` trained as a classifier" in text
    assert "--model.lr LR Learning rate, > 0. (type: float, default: 0.001)" in text
    assert '--model.class_weight CLASS_WEIGHT, --model.class_weight+ CLASS_WEIGHT "balanced", or K weights' in text


def test_signature_and_help_show_the_arguments_of_the_task() -> None:
    parameters = inspect.signature(zoo.ResNetClassifier).parameters
    assert list(parameters)[:3] == ["depth", "num_classes", "in_channels"]
    assert not {"net", "task", "self"} & parameters.keys()
    lr = parameters["lr"]
    assert (lr.kind, lr.default, lr.annotation) == (lr.KEYWORD_ONLY, 1e-3, float)
    assert {"optimizer", "weights", "class_weight"} <= parameters.keys()
    text = pydoc.plain(pydoc.render_doc(zoo.ResNetClassifier))
    assert "ResNetClassifier(depth: " in text
    assert "lr: float = 0.001" in text


def test_a_class_of_the_users_own_shows_them_too() -> None:
    class Mine(zoo.LeNetClassifier):
        def __init__(self, extra: int = 3, **task: Unpack[tasks.ClassificationArguments]) -> None:
            super().__init__(in_channels=1, **task)

    class Fixed(Mine):
        def __init__(self, lr: float) -> None:
            super().__init__(lr=lr)

    class Further(Mine):
        pass

    shown = inspect.signature(Mine).parameters
    assert next(iter(shown)) == "extra"
    assert {"num_classes", "width", "lr", "weights"} <= shown.keys()
    assert inspect.signature(Further) == inspect.signature(Mine)
    assert list(inspect.signature(Fixed).parameters) == ["lr"]
    assert Mine(lr=0.5).hparams["lr"] == 0.5


def test_a_model_without_a_task_has_its_own_arguments() -> None:
    class Plain(zoo.Model):
        def __init__(self, net: nn.Module, **rest: Any) -> None:
            super().__init__(**rest)
            self.net = net

    assert list(inspect.signature(Plain).parameters) == list(arguments_of(Plain)) == ["net"]
    assert isinstance(Plain(nn.Identity()).net, nn.Identity)


def test_hyperparameters_are_still_collected_on_every_level() -> None:
    model = zoo.LeNetClassifier(width=2, lr=0.5, class_weight=[1.0] * 10)
    assert dict(model.hparams) == {
        **{name: p.default for name, p in arguments_of(zoo.LeNetClassifier).items() if name != "weights"},
        "width": 2,
        "lr": 0.5,
        "class_weight": [1.0] * 10,
    }
    assert torch.equal(model.class_weight, torch.ones(10))

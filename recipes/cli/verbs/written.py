"""What ``zoo predict`` shows of a model that writes texts, translations or captions: the best of them, and where it looks."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from recipes.cli.errors import UserError

if TYPE_CHECKING:
    from zoo import Model

DRAWN = {"text": 16, "image": 8}  # inputs whose attention is drawn, in one picture
_WRITERS = "translators and captioners, such as zoo.RecurrentSeq2Seq and zoo.RecurrentCaptioning"


def writing_options(model: "Model", options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``predict_step`` for ``--beam`` and ``--best``; none for a model that has no such options.

    Raises:
        UserError: The model does not have an option that is given, a value is out of its range, or the picture cannot be written.
    """
    beam, best, picture = options.beam, options.best, options.attention
    name, known = type(model).__name__, model.predict_options
    for option, value in (("beam", beam), ("best", best)):
        if value is not None and option not in known:
            raise UserError(f"--{option} is for {_WRITERS}, and {name} is not one: leave it out")
        if value is not None and value < 1:
            raise UserError(f"--{option} must be 1 or more, got {value}")
    if picture is not None:
        _check_picture(model, picture)
    if "beam" not in known:
        return {}
    used = model.hparams["beam"] if beam is None else beam
    if best is not None and best > used:
        raise UserError(
            f"--best {best} asks for more texts than the {used} that are followed: give --beam {best} or more"
        )
    return {"beam": beam, "best": best or beam or 1}


def _check_picture(model: "Model", picture: Any) -> None:
    from recipes.cli.verbs.pictures import writing

    if "attention" not in model.predict_options:
        if "beam" not in model.predict_options:
            cure = f"it is for {_WRITERS}; leave it out"
        elif model.reads == "image":
            cure = "train one with attention, --model.attention=additive, say, or zoo.TransformerCaptioning"
        else:
            cure = "train it with attention, --model.attention=additive, say"
        raise UserError(f"--attention: this {type(model).__name__} has no attention that could be drawn: {cure}")
    if picture.is_dir() or picture.suffix.lower() != ".png":
        raise UserError(f"--attention {picture}: give the name of a file that ends in .png")
    with writing(picture, "--attention"):  # its folder, before anything is computed
        pass


def written_texts(output: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each input what was written, its score, and of several the N best, as plain data."""
    rows = []
    for texts, scores in zip(output["texts"], output["scores"].tolist(), strict=True):
        pairs = zip(texts, scores, strict=True)
        best = [{"score": score, "text": text} for text, score in pairs if math.isfinite(score)]
        rows.append({**best[0], **({"best": best} if len(texts) > 1 else {})})
    return rows


def unfolded(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a table for one input: of several texts that were written one each, with its rank, best first."""
    if "best" not in row:
        return [row]
    origin = {key: value for key, value in row.items() if key not in ("score", "text", "best")}
    return [{**origin, "rank": rank, **each} for rank, each in enumerate(row["best"], start=1)]


def draw_attention(model: "Model", given: Any, options: argparse.Namespace) -> None:
    """Write a picture of where the model looks as it writes the best text for each input.

    Args:
        model: The model.
        given: A batch of what it reads.
        options: With ``attention``, the file, and ``beam``.
    """
    import torch

    from recipes.cli.verbs.pictures import as_image, writing

    task: Any = model
    with torch.inference_mode():
        given = given.to(model.device)
        made = task.predict_step(given, beam=options.beam)
        image = task.draw_attention(given, made["tokens"][:, 0])
    with writing(options.attention, "--attention"):
        as_image(image).save(options.attention, "PNG")

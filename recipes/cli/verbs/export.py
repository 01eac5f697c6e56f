"""``zoo export``: a trained model as one file for other programs."""

from pathlib import Path

from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.run.options import Parser
from recipes.cli.verbs.named_model import MODEL_HELP, find_model, load_model

HELP = f"""zoo export MODEL [options]: write a trained model as one file for other programs.

  MODEL             {MODEL_HELP}
  --format F        onnx (the default; wants pip install 'lightning-zoo[export]'), torch-export (a program that needs torch
                    alone) or safetensors (the tensors)
  -o, --output FILE the file (default: model.onnx, model.pt2, model.safetensors); its suffix tells the format, too
  --debug           show the traceback of any error

Standardization is in the graph: it takes images as floats in [0, 1], or columns in units of the data. It gives probabilities of
the classes, predictions in the target's own unit, reconstructions or samples. Names, units and shapes of inputs and outputs, the
class names and how files were read are in the file's metadata. The outputs are compared with the model's before the file is
written; a model that cannot be exported leaves none.

Examples:
  zoo export runs/cnn/lenet_digits/version_0 -o lenet.onnx
  zoo export best.ckpt --format torch-export
  zoo export lenet5_digits
"""


def run(args: list[str]) -> int:
    """Run the verb ``export``."""
    parser = Parser("zoo export")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--format")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path)
    options = parser.parse_args(args)
    word = find_model(options.model)
    with NoCaches():
        import lightning.pytorch  # noqa: F401 (sets up its log, which is captured from then on)
    with captured_logs(Console()):
        from zoo.exports import SUFFIXES, check_format, export

        path = options.output or Path(f"model{SUFFIXES.get(options.format or 'onnx', '')}")
        check_format(path, options.format)  # before the model is loaded
        model = load_model(word)
        export(model, path, options.format)
    print(f"{path}: {type(model).__name__}, {path.stat().st_size / 1e6:.1f} MB, equal to the model")
    return 0

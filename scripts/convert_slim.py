"""Convert a TF-Slim checkpoint into weights for the suite: Inception-v3, -v4, Inception-ResNet-v2.

    python scripts/convert_slim.py ens3_adv_inception_v3.ckpt ens3_adv_inception_v3.safetensors

Reads TensorFlow's checkpoints (pip install -r requirements-convert.txt), or an .npz of the
variables by name without TensorFlow.
"""

import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.running import cli

# The same as slim.ARCHITECTURES, which would import torch.
ARCHITECTURES = ("inception_v3", "inception_v4", "inception_resnet_v2")


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "checkpoint", type=Path, help="TensorFlow checkpoint, or .npz of its variables"
    )
    parser.add_argument("output", type=Path, help=".safetensors file to write")
    parser.add_argument(
        "--arch", choices=ARCHITECTURES, help="guessed from the variables if absent"
    )
    return parser


def main(args) -> None:
    if args.output.suffix != ".safetensors":
        raise cli.UsageError(f"the output {args.output} must end in .safetensors")

    import safetensors.torch

    from suite.images.labels import whole_file
    from suite.networks import slim

    variables = read_variables(args.checkpoint)
    try:
        architecture = args.arch or slim.guess_architecture(variables)
        state = slim.convert_variables(variables, architecture)
    except ValueError as error:
        raise ValueError(f"{args.checkpoint}: {error}") from error
    with whole_file(args.output) as part:
        metadata = {"format": "pt", "architecture": architecture}
        part.write_bytes(safetensors.torch.save(state, metadata))
    print(f"{args.output}: {architecture}, {len(state)} tensors")


def read_variables(file: Path) -> dict:
    """Return a checkpoint's variables as arrays by name.

    Raises:
        OSError: there is no such file.
        ValueError: it is not readable, or TensorFlow is needed and missing.
    """
    import numpy as np

    if file.suffix == ".npz":
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file}: not readable as arrays ({error})") from error
    folder = file.parent
    if not folder.is_dir() or not any(f.name.startswith(file.name) for f in folder.iterdir()):
        raise OSError(f"there is no checkpoint {file}")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ValueError(
            f"reading {file} needs TensorFlow: pip install -r requirements-convert.txt, or save "
            "the variables as an .npz elsewhere"
        ) from error
    try:
        # A checkpoint of several files is named by what they have in common.
        reader = tf.train.load_checkpoint(str(file).removesuffix(".index"))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"{file}: not readable as a TensorFlow checkpoint ({error})") from error


if __name__ == "__main__":
    cli.run(main, get_parser())

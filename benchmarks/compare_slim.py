"""Compare converted networks with TF-Slim's own graphs: logits on random images.

In an environment of its own (Python 3.11; newer TensorFlow does not run tf-slim):

    python3.11 -m venv tfenv
    tfenv/bin/pip install tensorflow-cpu==2.12.1 tf-slim==1.1.0 "numpy<2"
    tfenv/bin/python benchmarks/compare_slim.py make compared
    tfenv/bin/python benchmarks/compare_slim.py keras compared

then in the suite's:

    python benchmarks/compare_slim.py compare compared

The first command saves, per architecture, a checkpoint with random variables and batch-norm
statistics, the same variables as .npz, images and logits. Inception-v3's graph is tf-slim's own.
Of the other two tf-slim has none: they are built here with its layers, from the names, channels,
kernels and paddings that tensorflow/models defines in research/slim/nets. The second command
compares Inception-ResNet-v2 as built here with Keras's, whose weights are slim's.
"""

import re
import sys
from pathlib import Path

import numpy as np

IMAGES = 4
SEED = 0

# Branches separated by |. A convolution is name:channels, its kernel stands in its name; V is for
# VALID padding, 2 for a stride of 2; + joins convolutions of the same input.
V4_A = "0a_1x1:96 | 0a_1x1:64 0b_3x3:96 | 0a_1x1:64 0b_3x3:96 0c_3x3:96 | avg 0b_1x1:96"
V4_B = (
    "0a_1x1:384 | 0a_1x1:192 0b_1x7:224 0c_7x1:256"
    " | 0a_1x1:192 0b_7x1:192 0c_1x7:224 0d_7x1:224 0e_1x7:256 | avg 0b_1x1:128"
)
V4_C = (
    "0a_1x1:256 | 0a_1x1:384 0b_1x3:256+0c_3x1:256"
    " | 0a_1x1:384 0b_3x1:448 0c_1x3:512 0d_1x3:256+0e_3x1:256 | avg 0b_1x1:256"
)
V4 = {
    "Mixed_3a": "max | 0a_3x3:96V2",
    "Mixed_4a": "0a_1x1:64 1a_3x3:96V | 0a_1x1:64 0b_1x7:64 0c_7x1:64 1a_3x3:96V",
    "Mixed_5a": "1a_3x3:192V2 | max",
    **{f"Mixed_5{letter}": V4_A for letter in "bcde"},
    "Mixed_6a": "1a_3x3:384V2 | 0a_1x1:192 0b_3x3:224 1a_3x3:256V2 | max",
    **{f"Mixed_6{letter}": V4_B for letter in "bcdefgh"},
    "Mixed_7a": ("0a_1x1:192 1a_3x3:192V2 | 0a_1x1:256 0b_1x7:256 0c_7x1:320 1a_3x3:320V2 | max"),
    **{f"Mixed_7{letter}": V4_C for letter in "bcd"},
}
RESNET_5B = "1x1:96 | 0a_1x1:48 0b_5x5:64 | 0a_1x1:64 0b_3x3:96 0c_3x3:96 | avg 0b_1x1:64"
RESNET_6A = "1a_3x3:384V2 | 0a_1x1:256 0b_3x3:256 1a_3x3:384V2 | max"
RESNET_7A = (
    "0a_1x1:256 1a_3x3:384V2 | 0a_1x1:256 1a_3x3:288V2 | 0a_1x1:256 0b_3x3:288 1a_3x3:320V2 | max"
)
BLOCK35 = "1x1:32 | 0a_1x1:32 0b_3x3:32 | 0a_1x1:32 0b_3x3:48 0c_3x3:64"
BLOCK17 = "1x1:192 | 0a_1x1:128 0b_1x7:160 0c_7x1:192"
BLOCK8 = "1x1:192 | 0a_1x1:192 0b_1x3:224 0c_3x1:256"


def make(folder: Path) -> None:
    import tensorflow.compat.v1 as tf
    import tf_slim
    from tf_slim.nets import inception

    tf.disable_eager_execution()

    def chain(net, text):
        for step in text.split():
            if step == "avg":
                net = tf_slim.avg_pool2d(net, 3, stride=1, padding="SAME")
            elif step == "max":
                net = tf_slim.max_pool2d(net, 3, stride=2, padding="VALID")
            else:
                net = tf.concat([convolution(net, one) for one in step.split("+")], 3)
        return net

    def convolution(net, text):
        name, height, width, channels, valid, stride = re.fullmatch(
            r"(\w*?(\d)x(\d)):(\d+)(V?)(2?)", text
        ).groups()
        return tf_slim.conv2d(
            net,
            int(channels),
            (int(height), int(width)),
            stride=int(stride or 1),
            padding="VALID" if valid else "SAME",
            scope=f"Conv2d_{name}",
        )

    def mixed(net, text):
        outputs = []
        for number, branch in enumerate(text.split("|")):
            with tf.variable_scope(f"Branch_{number}"):
                outputs.append(chain(net, branch))
        return tf.concat(outputs, 3)

    def block(net, scope, text):
        with tf.variable_scope(scope):
            return mixed(net, text)

    def residual(net, scope, text, scale, activation=tf.nn.relu):
        with tf.variable_scope(scope):
            branch = tf_slim.conv2d(
                mixed(net, text),
                net.shape[3],
                1,
                normalizer_fn=None,
                activation_fn=None,
                scope="Conv2d_1x1",
            )
        return activation(net + scale * branch)

    def logits(net):
        net = tf.reduce_mean(net, (1, 2))
        with tf.variable_scope("Logits"):
            return tf_slim.fully_connected(net, 1001, activation_fn=None, scope="Logits")

    def inception_v3(pixels):
        return inception.inception_v3(pixels, num_classes=1001, is_training=False)[0]

    def inception_v4(pixels):
        with tf.variable_scope("InceptionV4"):
            net = chain(pixels, "1a_3x3:32V2 2a_3x3:32V 2b_3x3:64")
            for scope, text in V4.items():
                net = block(net, scope, text)
            return logits(net)

    def inception_resnet_v2(pixels):
        with tf.variable_scope("InceptionResnetV2"):
            net = chain(pixels, "1a_3x3:32V2 2a_3x3:32V 2b_3x3:64 max 3b_1x1:80 4a_3x3:192V max")
            net = block(net, "Mixed_5b", RESNET_5B)
            for number in range(10):
                net = residual(net, f"Repeat/block35_{number + 1}", BLOCK35, 0.17)
            net = block(net, "Mixed_6a", RESNET_6A)
            for number in range(20):
                net = residual(net, f"Repeat_1/block17_{number + 1}", BLOCK17, 0.1)
            net = block(net, "Mixed_7a", RESNET_7A)
            for number in range(9):
                net = residual(net, f"Repeat_2/block8_{number + 1}", BLOCK8, 0.2)
            net = residual(net, "Block8", BLOCK8, 1, tf.identity)
            return logits(chain(net, "7b_1x1:1536"))

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    # Noise in squares of 23 x 23 pixels: single pixels' noise averages out on the way.
    squares = random.uniform(-1, 1, (IMAGES, 13, 13, 3)).astype(np.float32)
    pixels = squares.repeat(23, 1).repeat(23, 2)
    for build in (inception_v3, inception_v4, inception_resnet_v2):
        architecture = build.__name__
        with tf.Graph().as_default(), tf.Session() as session:
            with (
                tf_slim.arg_scope(inception.inception_v3_arg_scope()),
                tf_slim.arg_scope([tf_slim.batch_norm], is_training=False),
            ):
                output = build(tf.constant(pixels))
            tf.train.get_or_create_global_step()
            for variable in tf.global_variables():
                variable.load(random_value(random, variable.op.name, variable.shape), session)
            tf.train.Saver().save(
                session, str(folder / f"{architecture}.ckpt"), write_meta_graph=False
            )
            reader = tf.train.load_checkpoint(str(folder / f"{architecture}.ckpt"))
            names = [variable.op.name for variable in tf.global_variables()]
            arrays = {name: reader.get_tensor(name) for name in names}
            np.savez(folder / f"{architecture}.npz", **arrays)
            np.savez(
                folder / f"{architecture}_logits.npz", pixels=pixels, logits=session.run(output)
            )
        print(f"{architecture}: {len(arrays)} variables", flush=True)


def random_value(random: np.random.Generator, name: str, shape) -> np.ndarray:
    """Draw a variable such that signals neither die nor explode on their way."""
    shape = tuple(shape)
    if name == "global_step":
        return np.int64(12)
    if name.endswith("moving_variance"):
        return random.uniform(0.5, 1.5, shape)
    if name.endswith("weights"):
        return random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
    return random.normal(0, 0.1, shape)  # beta, moving_mean, biases


def keras(folder: Path) -> None:
    import tensorflow as tf

    scope = "InceptionResnetV2/"
    with np.load(folder / "inception_resnet_v2.npz") as arrays:
        variables = {name.removeprefix(scope): array for name, array in arrays.items()}
    layers = [name.removesuffix("/weights") for name in variables if name.endswith("/weights")]
    normed = [layer for layer in layers if f"{layer}/BatchNorm/beta" in variables]
    biased = [layer for layer in layers if layer not in normed]

    model = tf.keras.applications.InceptionResNetV2(
        weights=None, classes=1001, classifier_activation=None
    )
    # Keras numbers its layers in the order of slim's graph, and gives a few names of their own.
    convolutions, norms = (
        [kind, *(f"{kind}_{number}" for number in range(1, len(normed) - 1)), last]
        for kind, last in [("conv2d", "conv_7b"), ("batch_normalization", "conv_7b_bn")]
    )
    counts = {"block35": 10, "block17": 20, "block8": 10}
    branches = [
        f"{block}_{number}_conv"
        for block, count in counts.items()
        for number in range(1, count + 1)
    ]
    for layer, convolution, norm in zip(normed, convolutions, norms, strict=True):
        model.get_layer(convolution).set_weights([variables[f"{layer}/weights"]])
        statistics = ("beta", "moving_mean", "moving_variance")
        model.get_layer(norm).set_weights([variables[f"{layer}/BatchNorm/{s}"] for s in statistics])
    for layer, name in zip(biased, [*branches, "predictions"], strict=True):
        model.get_layer(name).set_weights(
            [variables[f"{layer}/{s}"] for s in ("weights", "biases")]
        )

    with np.load(folder / "inception_resnet_v2_logits.npz") as expected:
        theirs = model(expected["pixels"], training=False).numpy()
        difference = abs(theirs - expected["logits"]).max() / np.ptp(theirs)
    print(f"inception_resnet_v2 as built here and by Keras: {difference:.1e} of the range")


def compare(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import torch

    from suite.networks import slim

    print("| network | largest difference / range of the logits |\n|---|---|")
    for name in slim.ARCHITECTURES:
        with np.load(folder / f"{name}.npz") as variables:
            state = slim.convert_variables(dict(variables), name)
        network = slim.slim_network(name)
        network.load_state_dict(state)
        with np.load(folder / f"{name}_logits.npz") as expected, torch.no_grad():
            theirs = expected["logits"][:, 1:]  # without the background class
            ours = network(torch.from_numpy(expected["pixels"]).permute(0, 3, 1, 2)).numpy()
        print(f"| {name} | {abs(ours - theirs).max() / np.ptp(theirs):.1e} |", flush=True)


if __name__ == "__main__":
    commands = {"make": make, "keras": keras, "compare": compare}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](Path(sys.argv[2]))

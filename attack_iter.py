"""Craft adversarial images on a source network, with the Skip Gradient Method (SGM) if gamma < 1.

    python attack_iter.py --input-dir=nat_images --output-dir=adv_images --arch=densenet201 \
        --gamma=0.5 --epsilon=16 --num-steps=10 --step-size=2

Writes a PNG for each image, labels.csv, and run.json, which says with what they were made.
"""

import json
import logging
import time
from importlib.metadata import version
from pathlib import Path

import cli

logger = logging.getLogger(__name__)

VERSIONS = ("torch", "torchvision", "timm", "pretrainedmodels", "advertorch", "numpy", "Pillow")


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--input-dir", type=Path, help="folder of natural images")
    parser.add_argument("--output-dir", type=Path, help="folder to write")
    add = parser.add_argument_group("source").add_argument
    add("--arch", nargs="+", default=["efficientnet_lite0"], help="source network, or an ensemble")
    add(
        "--ensemble",
        choices=("logits", "gradients"),
        default="logits",
        help="logits: average the logits; gradients: normalise each network's gradient and add",
    )
    add = parser.add_argument_group("attack").add_argument
    add("--epsilon", type=cli.not_negative, default=16, help="largest perturbation, in 1/255")
    add("--num-steps", type=cli.positive_int, default=10, help="1 step of size epsilon is FGSM")
    add("--step-size", type=float, default=2, help="in 1/255; negative: epsilon / num-steps")
    add(
        "--momentum",
        type=cli.not_negative,
        default=0,
        help="0: PGD; above 0: MI-FGSM's decay factor",
    )
    add("--di-prob", type=cli.probability, default=0, help="DI's probability (0.5 in its paper)")
    add("--di-resize", type=float, default=1.1, help="DI's largest size, relative to the image's")
    add("--ti-kernel", type=cli.odd, default=1, help="TI's kernel size in pixels (15 in its paper)")
    add("--ti-sigma", type=float, default=3, help="standard deviations from its middle to its edge")
    add("--rand-init", action="store_true", help="start at a random place in the ball")
    add(
        "--targeted",
        action="store_true",
        help="aim at the label file's target classes, or at random ones if it has none",
    )
    add("--seed", type=int, default=0, help="of DI, the random start and random target classes")
    add = parser.add_argument_group("SGM").add_argument
    add(
        "--gamma",
        type=cli.gamma,
        nargs="+",
        default=[1],
        help="decay factor of the residual gradients, for all networks or for each; "
        "1: the plain attack, below 1: SGM",
    )
    add(
        "--hooks",
        choices=("auto", "relu", "branch"),
        default="auto",
        help="relu: those that the authors released; branch: the paper's formula; auto: relu where "
        "the authors' exist",
    )
    add(
        "--branches",
        metavar="REGEX",
        help="scale the gradient at the output of the modules whose whole names match, instead of "
        "the residual branches that are found",
    )
    add(
        "--list-branches",
        action="store_true",
        help="print the residual branches of --arch, and stop; needs neither images nor weights",
    )
    add = parser.add_argument_group("running").add_argument
    add("--batch-size", type=cli.positive_int, default=16)
    add("--no-cuda", action="store_true", help="run on the CPU")
    add(
        "--print-freq",
        type=cli.positive_int,
        default=10,
        help="batches from one line of the log to the next, where there is no progress bar",
    )
    add("--json", action="store_true", help="print the result as JSON")
    return parser


def main(args) -> None:
    import torch

    import attacks
    import images
    import models
    import utils_sgm

    if args.list_branches:
        list_branches(args)
        return
    if args.input_dir is None or args.output_dir is None:
        raise ValueError("--input-dir and --output-dir are needed")
    if args.output_dir.resolve() == args.input_dir.resolve():
        raise ValueError("the output folder is the input folder; its images would be overwritten")
    if len(args.gamma) not in (1, len(args.arch)):
        raise ValueError(f"{len(args.gamma)} gammas do not go with {len(args.arch)} networks")
    if args.di_resize < 1:
        raise ValueError(f"--di-resize {args.di_resize} is below 1")
    step_size = args.step_size if args.step_size >= 0 else args.epsilon / args.num_steps
    gammas = args.gamma * (len(args.arch) // len(args.gamma))
    device = "cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu"

    todo = images.list_images(args.input_dir)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    networks = [models.load_model(arch) for arch in args.arch]
    for arch, model, gamma in zip(args.arch, networks, gammas, strict=True):
        handles = utils_sgm.register_sgm(
            model.network, arch, gamma, args.hooks, model.input_size, args.branches
        )
        logger.info("%s: gamma %g, %d hooks", arch, gamma, len(handles))
    source = attacks.LogitEnsemble(networks).to(device)
    ensemble = attacks.GradientEnsemble(networks) if args.ensemble == "gradients" else source
    diversity = attacks.InputDiversity(args.di_prob, args.di_resize)
    smoothing = attacks.TranslationInvariance(args.ti_kernel, args.ti_sigma)
    in_front = [smoothing] * (args.ti_kernel > 1) + [diversity] * (args.di_prob > 0)
    attack = attacks.make_attack(
        torch.nn.Sequential(*in_front, ensemble).to(device),
        args.epsilon,
        step_size,
        args.num_steps,
        args.momentum,
        args.targeted,
    )

    rows, succeeded, predicted, drawn, largest = [], 0, 0, 0, 0
    clock = time.perf_counter()
    batches = images.read_batches(todo, args.batch_size)
    for batch, pixels in cli.progress(batches, len(todo), args.print_freq):
        pixels = pixels.to(device)
        natural = images.to_float(pixels)
        generators = attacks.image_generators(args.seed, [image.name for image in batch])
        labels = [image.label for image in batch]
        if None in labels:
            predicted += labels.count(None)
            guesses = models.predict(source, natural).tolist()
            labels = [g if y is None else y for y, g in zip(labels, guesses, strict=True)]
        aims = [image.target for image in batch] if args.targeted else labels
        if None in aims:
            drawn += aims.count(None)
            guesses = attacks.random_targets(labels, generators)
            aims = [g if aim is None else aim for aim, g in zip(aims, guesses, strict=True)]
        start = attacks.random_start(natural, args.epsilon, generators) if args.rand_init else None
        diversity.generators = generators
        aim = torch.tensor(aims, device=device)
        adversarial = attacks.perturb(attack, natural, aim, args.epsilon, start)
        adversarial = images.to_uint8(adversarial, pixels, args.epsilon)
        hit = models.predict(source, images.to_float(adversarial)) == aim
        succeeded += (hit if args.targeted else ~hit).sum().item()
        largest = max(largest, (adversarial.int() - pixels.int()).abs().max().item())
        for image, result, label, aim in zip(batch, adversarial.cpu(), labels, aims, strict=True):
            images.write_png(result, args.output_dir / image.name)
            row = {"filename": image.name, "label": label}
            rows.append(row | {"target": aim} if args.targeted else row)
    seconds = time.perf_counter() - clock
    if predicted:
        logger.warning("%d images have no label: took what the source predicts", predicted)
    if drawn:
        logger.warning("%d images have no target class: drew one with seed %d", drawn, args.seed)

    images.write_labels(args.output_dir, rows)
    run = {
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()},
        "source": " + ".join(args.arch),
        "attack": attack_name(args, step_size),
        "gamma": args.gamma[0] if len(set(gammas)) == 1 else gammas,
        "epsilon": args.epsilon,
        "step_size": step_size,
        "num_steps": args.num_steps,
        "seed": args.seed,
        "targeted": args.targeted,
        "hooks": [utils_sgm.choose_hooks(arch, args.hooks, args.branches) for arch in args.arch],
        "weights": {model.weights.name: models.sha256(model.weights) for model in networks},
        "versions": {name: version(name) for name in VERSIONS},
        "images": len(rows),
        "labels_predicted": predicted,
        "targets_drawn": drawn,
        "white_box_success": 100 * succeeded / len(rows),
        "largest_perturbation": largest,
    }
    images.write_run(args.output_dir, run)

    if args.json:
        keys = ("images", "white_box_success", "largest_perturbation")
        print(json.dumps({k: run[k] for k in keys} | {"images_per_second": len(rows) / seconds}))
    else:
        print(
            f"{run['attack']} on {run['source']}, gamma {' '.join(f'{g:g}' for g in args.gamma)}, "
            f"epsilon {args.epsilon:g}/255, {args.num_steps} steps of {step_size:g}/255\n"
            f"images                {len(rows)}\n"
            f"white-box success     {run['white_box_success']:.1f} %\n"
            f"largest perturbation  {largest}/255\n"
            f"speed                 {len(rows) / seconds:.1f} images/s"
        )


def attack_name(args, step_size: float) -> str:
    """Return the field's name of the attack: PGD, MI-FGSM+DI, FGSM, ..."""
    if args.num_steps == 1 and step_size == args.epsilon:
        name = "FGSM"
    else:
        name = "MI-FGSM" if args.momentum else "PGD"
    name = "targeted " * args.targeted + name
    return name + "+DI" * (args.di_prob > 0) + "+TI" * (args.ti_kernel > 1)


def list_branches(args) -> None:
    """Print where the branch hooks go, and the additions that are left alone, in running order."""
    import branches
    import models
    import report

    for arch in args.arch:
        model = models.load_model(arch, pretrained=False)
        connections = branches.trace_connections(model.network, model.input_size)
        print(
            report.connections_json(connections) if args.json else report.connections(connections)
        )
        if not any(connection.module for connection in connections):
            raise ValueError(f"no residual branch in {arch}: gamma would do nothing")


if __name__ == "__main__":
    cli.run(main, get_parser())

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
    parser.add_argument("--arch", default="efficientnet_lite0", help="source network")
    parser.add_argument("--epsilon", type=float, default=16, help="largest perturbation, in 1/255")
    parser.add_argument("--num-steps", type=cli.positive_int, default=10, help="number of steps")
    parser.add_argument(
        "--step-size", type=float, default=2, help="in 1/255; negative: epsilon / num-steps"
    )
    parser.add_argument(
        "--momentum", type=float, default=0, help="0: PGD; above 0: MI-FGSM's decay factor"
    )
    parser.add_argument(
        "--gamma",
        type=cli.gamma,
        default=1,
        help="decay factor of the residual gradients; 1: the plain attack, below 1: SGM",
    )
    parser.add_argument(
        "--hooks",
        choices=("auto", "relu", "branch"),
        default="auto",
        help="SGM's hooks; relu: those that the authors released; branch: the paper's formula; "
        "auto: relu where the authors' exist",
    )
    parser.add_argument(
        "--branches",
        metavar="REGEX",
        help="scale the gradient at the output of the modules whose whole names match, instead of "
        "the residual branches that are found",
    )
    parser.add_argument(
        "--list-branches",
        action="store_true",
        help="print the residual branches of --arch, and stop; needs neither images nor weights",
    )
    parser.add_argument("--batch-size", type=cli.positive_int, default=16)
    parser.add_argument("--no-cuda", action="store_true", help="run on the CPU")
    parser.add_argument(
        "--print-freq",
        type=cli.positive_int,
        default=10,
        help="batches from one line of the log to the next, where there is no progress bar",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
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
    if args.epsilon < 0 or args.momentum < 0:
        raise ValueError("epsilon and momentum can't be negative")
    if args.output_dir.resolve() == args.input_dir.resolve():
        raise ValueError("the output folder is the input folder; its images would be overwritten")
    step_size = args.step_size if args.step_size >= 0 else args.epsilon / args.num_steps
    device = "cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu"

    todo = images.list_images(args.input_dir)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    model = models.load_model(args.arch).to(device)
    hooks = utils_sgm.register_sgm(
        model.network, args.arch, args.gamma, args.hooks, model.input_size, args.branches
    )
    attack = attacks.make_attack(model, args.epsilon, step_size, args.num_steps, args.momentum)

    rows, fooled, predicted, largest = [], 0, 0, 0
    start = time.perf_counter()
    batches = images.read_batches(todo, args.batch_size)
    for batch, pixels in cli.progress(batches, len(todo), args.print_freq):
        pixels = pixels.to(device)
        natural = images.to_float(pixels)
        labels = torch.tensor([-1 if i.label is None else i.label for i in batch], device=device)
        if (labels < 0).any():
            predicted += (labels < 0).sum().item()
            labels = torch.where(labels < 0, models.predict(model, natural), labels)
        adversarial = images.to_uint8(attack.perturb(natural, labels), pixels, args.epsilon)
        fooled += (models.predict(model, images.to_float(adversarial)) != labels).sum().item()
        largest = max(largest, (adversarial.int() - pixels.int()).abs().max().item())
        for image, result, label in zip(batch, adversarial.cpu(), labels.tolist(), strict=True):
            images.write_png(result, args.output_dir / image.name)
            rows.append({"filename": image.name, "label": label})
    seconds = time.perf_counter() - start
    if predicted:
        logger.warning(
            "%d images have no label in %s; what %s predicts of them was used",
            predicted,
            args.input_dir,
            args.arch,
        )

    images.write_labels(args.output_dir, rows)
    run = {
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()},
        "source": args.arch,
        "attack": "MI-FGSM" if args.momentum else "PGD",
        "gamma": args.gamma,
        "epsilon": args.epsilon,
        "step_size": step_size,
        "num_steps": args.num_steps,
        "hooks": {
            "kind": utils_sgm.choose_hooks(args.arch, args.hooks, args.branches),
            "count": len(hooks),
        },
        "weights": {"file": model.weights.name, "sha256": models.sha256(model.weights)},
        "versions": {name: version(name) for name in VERSIONS},
        "images": len(rows),
        "labels_predicted": predicted,
        "white_box_success": 100 * fooled / len(rows),
        "largest_perturbation": largest,
    }
    images.write_run(args.output_dir, run)

    result = {
        "images": len(rows),
        "white_box_success": run["white_box_success"],
        "largest_perturbation": largest,
        "images_per_second": len(rows) / seconds,
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(
            f"{run['attack']} on {args.arch}, gamma {args.gamma:g} ({len(hooks)} hooks), "
            f"epsilon {args.epsilon:g}/255, {args.num_steps} steps of {step_size:g}/255\n"
            f"images                {result['images']}\n"
            f"white-box success     {result['white_box_success']:.1f} %\n"
            f"largest perturbation  {result['largest_perturbation']}/255\n"
            f"speed                 {result['images_per_second']:.1f} images/s"
        )


def list_branches(args) -> None:
    """Print where the branch hooks go, and the additions that are left alone, in running order."""
    import branches
    import models

    model = models.load_model(args.arch, pretrained=False)
    connections = branches.trace_connections(model.network, model.input_size)
    found = [c for c in connections if c.module]
    if args.json:
        keys = ("kind", "place", "module", "residual")
        print(json.dumps([{key: getattr(c, key) for key in keys} for c in connections]))
        return
    for connection in connections:
        place = connection.place or "the network itself"
        if connection.module:
            print(f"{connection.kind:<14} branch {connection.module}")
        elif connection.residual:
            print(f"{connection.kind:<14} left out: no module returns the branch, in {place}")
        else:
            print(f"{connection.kind:<14} left alone: no skip connection, in {place}")
    print(f"{len(found)} residual branches")
    if not found:
        raise ValueError(f"no residual branch in {args.arch}: gamma would do nothing")


if __name__ == "__main__":
    cli.run(main, get_parser())

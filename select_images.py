"""Keep the ImageNet images that every source network classifies correctly.

    python select_images.py --input-dir=ILSVRC2012/val --output-dir=nat_images \
        --arch resnet152 densenet201 --num-images=5000

Resizes and crops them and saves them as 8-bit PNGs, with a labels.csv. The networks classify what
is saved. With --all every image is kept, and no network is run.
"""

import contextlib
import json
import logging
import random
from pathlib import Path

from suite.defences import defence_names
from suite.running import cli

logger = logging.getLogger(__name__)


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--input-dir", type=Path, help="folder of ImageNet images, with labels")
    add("--data", choices=("embedded",), help="embedded: the 100 images in data/nips2017")
    add = parser.add_argument
    add("--output-dir", type=Path, required=True, help="folder to write")
    judged = parser.add_mutually_exclusive_group().add_argument
    judged("--arch", nargs="+", default=["efficientnet_lite0"], help="networks that must be right")
    judged("--all", action="store_true", help="keep all images, without running a network")
    cli.add_checkpoint(add)
    add("--num-images", type=cli.positive_int, help="how many to keep; all if absent")
    add("--seed", type=int, default=0, help="random seed of the order in which they are taken")
    add("--size", type=cli.positive_int,
        help="width and height of the saved images; if absent 224, or, where every network takes "
        "less, the largest of their input sizes")
    resized = parser.add_mutually_exclusive_group().add_argument
    resized("--resize", type=cli.positive_int,
        help="short side before the crop; if absent size * 256 / 224, and images that have the "
        "size already are taken as they are")
    resized("--whole", action="store_true",
        help="resize the whole image to size x size, whatever its shape, and crop nothing")
    add("--bicubic", action="store_true", help="bicubic instead of bilinear interpolation")
    add("--overwrite", action="store_true", help="delete the images that the output folder has")
    cli.add_running(add)
    add("--json", action="store_true", help="print the result as JSON")
    # fmt: on
    return parser


def main(args) -> None:
    if args.all and args.checkpoint:
        raise cli.UsageError("--checkpoint is for a network, and --all runs none")
    checkpoints = defence_names.checkpoints(args.arch, args.checkpoint)

    from suite.images.folders import EMBEDDED, list_images
    from suite.images.labels import UNFINISHED, write_labels
    from suite.images.selection import prepare_folder, square
    from suite.networks.answer_checks import by_class_names, refuse_other_classes, warn_of_accuracy
    from suite.results.targets import Targets
    from suite.running import devices, ranks, runs

    folder = args.input_dir or EMBEDDED
    if args.output_dir.resolve() == folder.resolve():
        raise cli.UsageError("the output folder is the input folder")
    ranks.join()
    device = devices.choose_device(args.no_cuda, args.precision)

    candidates = list_images(folder)
    if any(image.label is None for image in candidates):
        raise ValueError(f"{folder} has no labels: it needs a labels.csv or class names")
    random.Random(args.seed).shuffle(candidates)
    archs = [] if args.all else list(dict.fromkeys(args.arch))
    targets = Targets(archs, checkpoints, device, args.precision, args.seed)
    candidates = by_class_names(targets.networks, candidates)
    for arch, network in targets.networks.items():
        refuse_other_classes(arch, network.classes, candidates, network.others)
    size = args.size or default_size(targets.networks.values())
    if args.resize and args.resize < size:
        raise cli.UsageError(f"--resize {args.resize} is less than --size {size}")
    untouched = set()

    def prepare(picture, name: str):
        prepared = square(picture, size, args.resize, args.whole, args.bicubic)
        if prepared is picture:
            untouched.add(name)
        return prepared

    args.output_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if ranks.rank() else runs.locked(args.output_dir):
        ranks.first(lambda: prepare_folder(args.output_dir, args.overwrite))
        kept, answered, unreadable = select(args, targets, candidates, prepare, device)
        untouched = {name for names in ranks.gather(untouched) for name in names}
        if ranks.rank():
            return
        if kept:
            rows = [
                {
                    "filename": image.name,
                    "label": image.label,
                    "source": image.path.relative_to(folder),
                    "target": image.target,
                }
                for image in kept
            ]
            write_labels(args.output_dir, rows)
        (args.output_dir / UNFINISHED).unlink()

    records = {
        arch: [{"answer": answers[arch].index, "label": i.label} for i, answers in answered]
        for arch in archs
    }
    correct = {a: sum(r["answer"] == r["label"] for r in records[a]) for a in archs}
    if args.json:
        text = json.dumps({"read": len(answered), "correct": correct, "kept": len(kept)})
    else:
        numbers = {"read": len(answered), **correct, "kept": len(kept)}
        text = "\n".join(f"{what:<24}{number:>8}" for what, number in numbers.items())
    cli.print_result(text)
    as_they_were = sum(image.name in untouched for image in kept)
    if as_they_were:
        logger.info("%d images had the size already, and are kept as they were", as_they_were)
    for arch in archs:
        warn_of_accuracy(arch, records[arch])
    errors = []
    if unreadable:
        errors.append(f"{len(unreadable)} images were not readable: {', '.join(unreadable)}")
    if len(kept) < (args.num_images or 1):
        fit = "readable" if args.all else "classified correctly by every network"
        errors.append(
            f"only {len(kept)} of {args.num_images or len(candidates)} images are {fit}; those "
            f"are kept in {args.output_dir}"
        )
    if errors:
        raise ValueError("; ".join(errors))


def default_size(networks) -> int:
    """Return 224, or, where all networks take less, the largest of their input sizes."""
    largest = max((max(network.input_size[1:]) for network in networks), default=224)
    if largest < 224:
        logger.info("images become %d pixels square, as the networks take them", largest)
    return min(224, largest)


def select(args, targets, candidates, prepare, device: str):
    """Save the images that all networks classify correctly.

    Returns:
        These images; all images that were classified, each with the networks' answers; and the
        names of unreadable images.
    """
    from suite.images.folders import in_batches
    from suite.images.pictures import Writer, read_batches
    from suite.running import devices, ranks

    workers, wanted = devices.decoders(args.workers), args.num_images or len(candidates)
    batches = in_batches(candidates, devices.batch_size(device, args.batch_size))
    kept, answered, skipped = [], [], []
    decoded = read_batches(ranks.share(batches), workers, prepare, skipped)
    decoded = cli.progress(decoded, len(candidates))
    judged = ((*each, {}) for each in decoded) if args.all else targets.answers(decoded)
    with Writer(workers) as writer:
        for image, pixels, answers in in_order(batches, judged):
            answered.append((image, answers))
            if all(answer.index == image.label for answer in answers.values()):
                kept.append(image)
                if pixels is not None:
                    writer.write(pixels, args.output_dir / image.name)
            if len(kept) == wanted:
                break
    unreadable = sorted(name for names in ranks.gather(skipped) for name in names)
    if len(kept) == wanted:  # a GPU may have read a batch more of each rank's
        number = next(n for n, batch in enumerate(batches) if answered[-1][0] in batch)
        needed = batches[: number - number % ranks.world_size() + ranks.world_size()]
        names = {image.path.name for batch in needed for image in batch}
        unreadable = [name for name in unreadable if name in names]
    return kept, answered, unreadable


def in_order(batches, judged):
    """Yield, on every rank, each image, its pixels if this rank read it, and the networks' answers.

    Args:
        batches: those of all ranks.
        judged: this rank's share of them, as `Targets.answers` yields it.
    """
    from suite.running import ranks

    for _ in batches[:: ranks.world_size()]:
        batch, own, answers = next(judged, ([], None, {}))
        for rank, (theirs, said) in enumerate(ranks.gather((batch, answers))):
            for index, image in enumerate(theirs):
                pixels = own[index] if rank == ranks.rank() else None
                yield image, pixels, {arch: classes[index] for arch, classes in said.items()}


if __name__ == "__main__":
    cli.run(main, get_parser())

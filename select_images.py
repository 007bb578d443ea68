"""Keep the ImageNet images that every source network classifies correctly.

    python select_images.py --input-dir=ILSVRC2012/val --output-dir=nat_images \
        --arch resnet152 densenet201 --num-images=5000

Writes them resized and cropped as 8-bit PNGs, with labels.csv. It is the saved pixels that are
classified. With --all every image is kept, and no network is run.
"""

import contextlib
import functools
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
    add("--data", choices=("embedded", "foolbox"),
        help="embedded: the 100 images in data/; foolbox: the 20 of that package")
    add = parser.add_argument
    add("--output-dir", type=Path, required=True, help="folder to write")
    judged = parser.add_mutually_exclusive_group().add_argument
    judged("--arch", nargs="+", default=["efficientnet_lite0"], help="networks that must be right")
    judged("--all", action="store_true", help="keep all images, without running a network")
    cli.add_checkpoint(add)
    add("--num-images", type=cli.positive_int, help="how many to keep; all if absent")
    add("--seed", type=int, default=0, help="of the order in which they are taken")
    add("--size", type=cli.positive_int,
        help="width and height of what is written; if absent 224, or, where every network takes "
        "less, the largest of theirs")
    resized = parser.add_mutually_exclusive_group().add_argument
    resized("--resize", type=cli.positive_int,
        help="short side before the crop; if absent size * 256 / 224, and images that have the "
        "size already are taken as they are")
    resized("--whole", action="store_true",
        help="resize the whole image to size x size, whatever its shape, and crop nothing")
    add("--bicubic", action="store_true", help="resample by cubic interpolation, not by linear")
    add("--overwrite", action="store_true", help="delete the images that the output folder has")
    cli.add_running(add)
    add("--json", action="store_true", help="print the result as JSON")
    # fmt: on
    return parser


def main(args) -> None:
    if args.input_dir and args.output_dir.resolve() == args.input_dir.resolve():
        raise cli.UsageError("the output folder is the input folder")
    if args.all and args.checkpoint:
        raise cli.UsageError("--checkpoint is for a network, and --all runs none")
    checkpoints = defence_names.checkpoints(args.arch, args.checkpoint)

    from suite.images.embedded import embedded_images
    from suite.images.folders import list_images
    from suite.images.selection import prepare_folder, square
    from suite.networks.answer_checks import refuse_other_classes
    from suite.results.targets import Targets
    from suite.running import devices, ranks, runs

    ranks.join()
    device = devices.choose_device(args.no_cuda, args.precision)

    if args.input_dir:
        candidates = list_images(args.input_dir)
    else:
        candidates = embedded_images(args.data)
    if any(image.label is None for image in candidates):
        raise ValueError(f"{args.input_dir} has no labels: it needs a labels.csv or class names")
    random.Random(args.seed).shuffle(candidates)
    archs = [] if args.all else list(dict.fromkeys(args.arch))
    committee = Targets(archs, checkpoints, device, args.precision, args.seed)
    for arch, network in committee.networks.items():
        refuse_other_classes(arch, network.classes, candidates)
    size = args.size or default_size(committee.networks.values())
    if args.resize and args.resize < size:
        raise cli.UsageError(f"--resize {args.resize} is less than --size {size}")
    shape = {name: getattr(args, name) for name in ("resize", "whole", "bicubic")}
    prepare = functools.partial(square, size=size, **shape)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if ranks.rank() else runs.locked(args.output_dir):
        ranks.first(lambda: prepare_folder(args.output_dir, args.overwrite))
        select(args, committee, candidates, prepare, device)


def default_size(networks) -> int:
    """Return 224, or, where all networks take less, the most that one of them takes."""
    most = max((max(network.input_size[1:]) for network in networks), default=224)
    if most < 224:
        logger.info("images become %d pixels square, as the networks take them", most)
    return min(224, most)


def select(args, committee, candidates, prepare, device: str) -> None:
    """Keep what the networks classify correctly, and print the counts."""
    from suite.images.class_folders import UNFINISHED
    from suite.images.folders import in_batches
    from suite.images.labels import write_labels
    from suite.images.pictures import Writer, read_batches
    from suite.images.selection import selected_row
    from suite.networks.answer_checks import warn_of_accuracy
    from suite.running import devices, ranks

    workers, wanted = devices.decoders(args.workers), args.num_images or len(candidates)
    batches = in_batches(candidates, devices.batch_size(device, args.batch_size))
    answered, rows, read = {arch: [] for arch in committee.networks}, [], 0
    skipped, untouched = [], []
    decoded = read_batches(ranks.share(batches), workers, prepare, skipped, untouched)
    decoded = cli.progress(decoded, len(candidates))
    judged = ((*each, {}) for each in decoded) if args.all else committee.answers(decoded)
    with Writer(workers) as writer:
        for image, pixels, answers in in_order(batches, judged):
            read += 1
            for arch, answer in answers.items():
                answered[arch].append({"answer": answer.index, "label": image.label})
            if all(answer.index == image.label for answer in answers.values()):
                rows.append(selected_row(image, args.input_dir))
                if pixels is not None:
                    writer.write(pixels, args.output_dir / image.name)
            if len(rows) == wanted:
                break
    skipped = sorted(name for names in ranks.gather(skipped) for name in names)
    untouched = {name for names in ranks.gather(untouched) for name in names}
    if ranks.rank():
        return
    if rows:
        write_labels(args.output_dir, rows)
    (args.output_dir / UNFINISHED).unlink()

    correct = {a: sum(r["answer"] == r["label"] for r in rs) for a, rs in answered.items()}
    if args.json:
        print(json.dumps({"read": read, "correct": correct, "kept": len(rows)}))
    else:
        for what, number in [("read", read), *correct.items(), ("kept", len(rows))]:
            print(f"{what:<24}{number:>8}")
    as_they_are = sum(row["filename"] in untouched for row in rows)
    if as_they_are:
        logger.info("%d images had the size already, and are kept as they were", as_they_are)
    for arch in answered:
        warn_of_accuracy(arch, answered[arch])
    if skipped:
        logger.warning("%d images were not readable: %s", len(skipped), ", ".join(skipped))
    if len(rows) < (args.num_images or 1):
        fit = "readable" if args.all else "classified correctly by every network"
        raise ValueError(
            f"only {len(rows)} of {args.num_images or len(candidates)} images are {fit}; those "
            f"are kept in {args.output_dir}"
        )


def in_order(batches, judged):
    """Yield on every rank each image, its pixels if this rank read it, and the networks' answers.

    Args:
        batches: of all ranks.
        judged: this rank's share of them, as `results.Committee.answers` yields it.
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

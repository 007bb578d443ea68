"""Keep the ImageNet images that every source network classifies correctly.

    python select_images.py --input-dir=ILSVRC2012/val --output-dir=nat_images \
        --arch resnet152 densenet201 --num-images=5000

Writes them resized and cropped as 8-bit PNGs, with labels.csv. It is the saved pixels that are
classified.
"""

import contextlib
import functools
import json
import logging
import random
from pathlib import Path

from suite.running import cli

logger = logging.getLogger(__name__)


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--input-dir", type=Path, help="folder of ImageNet images, with labels")
    add("--data", choices=("embedded",), help="embedded: the 20 images that come with foolbox")
    add = parser.add_argument
    add("--output-dir", type=Path, required=True, help="folder to write")
    add("--arch", nargs="+", default=["efficientnet_lite0"], help="networks that must be right")
    cli.add_checkpoint(add)
    add("--num-images", type=cli.positive_int, help="how many to keep; all if absent")
    add("--seed", type=int, default=0, help="of the order in which they are taken")
    add("--size", type=cli.positive_int, default=224, help="of the centre crop")
    add("--resize", type=cli.positive_int,
        help="short side before the crop; size * 256 / 224 if absent")
    add("--overwrite", action="store_true", help="delete the images that the output folder has")
    cli.add_running(add)
    add("--json", action="store_true", help="print the result as JSON")
    # fmt: on
    return parser


def main(args) -> None:
    resize = args.resize or round(args.size * 256 / 224)
    if resize < args.size:
        raise cli.UsageError(f"--resize {resize} is less than --size {args.size}")
    if args.input_dir and args.output_dir.resolve() == args.input_dir.resolve():
        raise cli.UsageError("the output folder is the input folder")
    checkpoints = cli.checkpoints(args.arch, args.checkpoint)

    from suite import images, results
    from suite.running import checks, devices, ranks, runs

    ranks.join()
    device = devices.choose_device(args.no_cuda, args.precision)

    candidates = images.list_images(args.input_dir) if args.input_dir else images.embedded_images()
    if any(image.label is None for image in candidates):
        raise ValueError(f"{args.input_dir} has no labels: it needs a labels.csv or class names")
    random.Random(args.seed).shuffle(candidates)
    archs = list(dict.fromkeys(args.arch))
    networks = results.Committee(archs, checkpoints, device, args.precision)
    for arch in archs:
        checks.refuse_other_classes(arch, networks.networks[arch].classes, candidates)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if ranks.rank() else runs.locked(args.output_dir):
        ranks.first(lambda: prepare_folder(args.output_dir, args.overwrite))
        select(args, resize, archs, networks, candidates, device)


def select(args, resize: int, archs, networks, candidates, device: str) -> None:
    """Keep what the networks classify correctly, and print the counts."""
    from suite import images
    from suite.running import checks, devices, ranks

    workers, wanted = devices.decoders(args.workers), args.num_images or len(candidates)
    batches = images.batches(candidates, devices.batch_size(device, args.batch_size))
    prepare = functools.partial(centre_crop, resize=resize, size=args.size)
    skipped, answered, rows = [], {arch: [] for arch in archs}, []
    decoded = images.read_batches(ranks.share(batches), workers, prepare, skipped)
    judged = networks.answers(cli.progress(decoded, len(candidates)))
    with images.Writer(workers) as writer:
        for image, pixels, answers in in_order(batches, judged):
            for arch in archs:
                answered[arch].append({"answer": answers[arch], "label": image.label})
            if all(answer == image.label for answer in answers.values()):
                rows.append(label_row(image, args.input_dir))
                if pixels is not None:
                    writer.write(pixels, args.output_dir / image.name)
            if len(rows) == wanted:
                break
    skipped = sorted(name for names in ranks.gather(skipped) for name in names)
    if ranks.rank():
        return
    if rows:
        images.write_labels(args.output_dir, rows)
    (args.output_dir / images.UNFINISHED).unlink()

    read = len(answered[args.arch[0]])
    correct = {a: sum(r["answer"] == r["label"] for r in rs) for a, rs in answered.items()}
    if args.json:
        print(json.dumps({"read": read, "correct": correct, "kept": len(rows)}))
    else:
        for what, number in [("read", read), *correct.items(), ("kept", len(rows))]:
            print(f"{what:<24}{number:>8}")
    for arch in archs:
        checks.warn_of_accuracy(arch, answered[arch])
    if skipped:
        logger.warning("%d images were not readable: %s", len(skipped), ", ".join(skipped))
    if len(rows) < (args.num_images or 1):
        raise ValueError(
            f"only {len(rows)} of {args.num_images or len(candidates)} images are classified "
            f"correctly by every network; those are kept in {args.output_dir}"
        )


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make the output folder, or empty it if that is wanted and a selection wrote it."""
    from suite import images

    ours = [folder / name for name in (images.LABELS, images.UNFINISHED)]
    selected = any(file.is_file() for file in ours)
    if overwrite and selected:
        for file in [*folder.glob("*.png"), *folder.glob(".*.part"), *ours]:
            file.unlink(missing_ok=True)
    if any(folder.glob("*.png")):
        hint = ", or --overwrite them" if selected else ""
        raise ValueError(f"{folder} has images: take another folder{hint}")
    (folder / images.UNFINISHED).touch()


def centre_crop(picture, resize: int, size: int):
    """Return a picture's centre, `size` pixels square, its short side being `resize`."""
    from torchvision.transforms.v2 import functional as transforms

    return transforms.center_crop(transforms.resize(picture, [resize]), [size])


def in_order(batches, judged):
    """Yield on every rank each image, its pixels if this rank read it, and the networks' answers.

    Args:
        batches: of all ranks.
        judged: this rank's share of them, as `results.Committee.answers` yields it.
    """
    from suite.running import ranks

    for _ in batches[:: ranks.size()]:
        batch, own, answers = next(judged, ([], None, {}))
        for rank, (theirs, said) in enumerate(ranks.gather((batch, answers))):
            for index, image in enumerate(theirs):
                pixels = own[index] if rank == ranks.rank() else None
                yield image, pixels, {arch: classes[index] for arch, classes in said.items()}


def label_row(image, folder: Path | None) -> dict:
    """Return a row of labels.csv; its `source` is the file that the image came from."""
    source = image.path.relative_to(folder or image.path.parent)
    row = {"filename": image.name, "label": image.label, "source": source}
    return row if image.target is None else row | {"target": image.target}


if __name__ == "__main__":
    cli.run(main, get_parser())

"""Keep the ImageNet images that every source network classifies correctly.

    python select_images.py --input-dir=ILSVRC2012/val --output-dir=nat_images \
        --arch resnet152 densenet201 --num-images=5000

Writes them resized and cropped as 8-bit PNGs, with labels.csv. It is the saved pixels that are
classified.
"""

import json
import logging
import random
from pathlib import Path

import cli

logger = logging.getLogger(__name__)


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--input-dir", type=Path, help="folder of ImageNet images, with labels")
    group.add_argument(
        "--data", choices=("embedded",), help="embedded: the 20 images that come with foolbox"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--arch", nargs="+", default=["efficientnet_lite0"], help="networks that must be right"
    )
    cli.add_checkpoint(parser.add_argument)
    parser.add_argument(
        "--num-images", type=cli.positive_int, help="how many to keep; all if absent"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order in which they are taken")
    parser.add_argument("--size", type=cli.positive_int, default=224, help="of the centre crop")
    parser.add_argument(
        "--resize",
        type=cli.positive_int,
        help="short side before the crop; size * 256 / 224 if absent",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the images that the output folder has"
    )
    parser.add_argument("--batch-size", type=cli.positive_int, default=16)
    parser.add_argument("--no-cuda", action="store_true", help="run on the CPU")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main(args) -> None:
    resize = args.resize or round(args.size * 256 / 224)
    if resize < args.size:
        raise cli.UsageError(f"--resize {resize} is less than --size {args.size}")
    if args.input_dir and args.output_dir.resolve() == args.input_dir.resolve():
        raise cli.UsageError("the output folder is the input folder")
    checkpoints = cli.checkpoints(args.arch, args.checkpoint)

    from torchvision.transforms.v2 import functional as transforms

    import checks
    import images
    import models

    device = models.choose_device(args.no_cuda)

    candidates = images.list_images(args.input_dir) if args.input_dir else images.embedded_images()
    if any(image.label is None for image in candidates):
        raise ValueError(f"{args.input_dir} has no labels: it needs a labels.csv or class names")
    if args.overwrite and (args.output_dir / images.LABELS).is_file():
        for file in [*args.output_dir.glob("*.png"), args.output_dir / images.LABELS]:
            file.unlink(missing_ok=True)
    if any(args.output_dir.glob("*.png")):
        raise ValueError(f"{args.output_dir} has images: take another folder, or --overwrite them")
    random.Random(args.seed).shuffle(candidates)
    wanted = args.num_images or len(candidates)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    networks = {
        arch: models.load_model(arch, checkpoint=checkpoints.get(arch)).to(device)
        for arch in args.arch
    }

    def prepare(picture):
        return transforms.center_crop(transforms.resize(picture, [resize]), [args.size])

    answered, rows, skipped = {arch: [] for arch in networks}, [], []
    batches = images.read_batches(candidates, args.batch_size, prepare, skipped)
    for batch, pixels in cli.progress(batches, len(candidates)):
        natural = images.to_float(pixels.to(device))
        answers = {arch: models.predict(net, natural).tolist() for arch, net in networks.items()}
        for index, image in enumerate(batch):
            for arch in networks:
                answered[arch].append({"answer": answers[arch][index], "label": image.label})
            right = [arch for arch in networks if answers[arch][index] == image.label]
            if len(right) == len(networks):
                images.write_png(pixels[index], args.output_dir / image.name)
                source = image.path.relative_to(args.input_dir or image.path.parent)
                row = {"filename": image.name, "label": image.label, "source": source}
                rows.append(row if image.target is None else row | {"target": image.target})
            if len(rows) == wanted:
                break
        if len(rows) == wanted:
            break
    if rows:
        images.write_labels(args.output_dir, rows)

    read = len(answered[args.arch[0]])
    correct = {a: sum(r["answer"] == r["label"] for r in rs) for a, rs in answered.items()}
    if args.json:
        print(json.dumps({"read": read, "correct": correct, "kept": len(rows)}))
    else:
        for what, number in [("read", read), *correct.items(), ("kept", len(rows))]:
            print(f"{what:<24}{number:>8}")
    for arch in networks:
        checks.warn_of_accuracy(arch, answered[arch])
    if skipped:
        logger.warning("%d images were not readable: %s", len(skipped), ", ".join(skipped))
    if len(rows) < (args.num_images or 1):
        raise ValueError(
            f"only {len(rows)} of {args.num_images or len(candidates)} images are classified "
            f"correctly by every network; those are kept in {args.output_dir}"
        )


if __name__ == "__main__":
    cli.run(main, get_parser())

"""Compute how well folders of adversarial images transfer to target networks.

    python evaluate.py --input-dir adv_images/gamma_1.0 adv_images/gamma_0.5 \
        --nat-dir nat_images --arch vgg19_bn senet154 --output results.csv

Success is the share of images that a target misclassifies or, for targeted attacks, assigns to the
target class. Folders that differ in the seed alone become one row.
"""

from pathlib import Path

from suite.defences import defence_names
from suite.results import published
from suite.running import cli


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("--input-dir", type=Path, nargs="+", required=True, help="folders of adversarial images")
    add("--arch", nargs="+", default=["efficientnet_lite1", "efficientnet_lite2"],
        help="target networks; paper, transferattack, ta-bench and tpami stand for a protocol's; "
        "with a defence in front: jpeg:75+resnet50")
    cli.add_checkpoint(add)
    add("--seed", type=int, default=0, help="of random defences")
    add("--nat-dir", type=Path,
        help="folder of the natural images; also gives the targets' accuracy on them, the success "
        "among those that a target classifies correctly, and the largest perturbation")
    add("--baseline", metavar="FOLDER",
        help="one of the input folders, with which the others are compared image by image; auto: "
        "for each the one of gamma 1 that differs in gamma alone")
    add("--published", type=published.published_file, nargs="+", metavar="NAME_OR_FILE",
        help=f"published rates to put beside ours: {', '.join(published.PUBLISHED_NAMES)}, or a CSV file")
    add("--quality", action="store_true",
        help="how visible the perturbations are: L2, PSNR, SSIM, LPIPS; needs --nat-dir")
    add("--output", type=Path, help="file to write the table to: .csv, .md, .json or .txt")
    add("--answers", type=Path,
        help="CSV file to write: each target's class for each image, and the label's probability")
    add("--plot", type=Path,
        help="PNG or PDF to draw: success over gamma, epsilon or the number of steps, else bars")
    add("--gallery", type=Path,
        help="PNG or PDF to draw: a few images of the last folder, with the targets' answers; "
        "needs --nat-dir")
    cli.add_running(add)
    add("--json", action="store_true", help="print the results as JSON")
    # fmt: on
    return parser


def main(args) -> None:
    check(args)

    from suite.images.folders import list_images, matched
    from suite.images.image_checks import refuse_unlabelled, refuse_unpaired, warn_of_other_files
    from suite.networks.answer_checks import refuse_other_classes, warn_of_accuracy
    from suite.networks.protocols import expand_protocols
    from suite.results.answers import write_answers
    from suite.results.paired import compare_with_baselines, find_baselines
    from suite.results.plots import GALLERY_ROWS, write_gallery, write_plot
    from suite.results.published import compare_published, read_published
    from suite.results.rates import merge_repeats
    from suite.results.report import json_text, table_text, write_table
    from suite.results.result_checks import (
        refuse_incomparable,
        refuse_over_epsilon,
        refuse_unfinished,
        refuse_unlike_repeats,
        repeat_of,
        warn_of_natural,
        warn_of_white_box,
    )
    from suite.results.targets import Targets
    from suite.results.transfer import classify, count_successes, gallery_examples, successes
    from suite.results.visibility import Visibility, mean_visibility
    from suite.running import devices, ranks, runs

    ranks.join()
    archs = expand_protocols(args.arch)
    checkpoints = defence_names.checkpoints(archs, args.checkpoint)
    numbers = read_published(args.published or [])
    device = devices.choose_device(args.no_cuda, args.precision)
    natural = list_images(args.nat_dir) if args.nat_dir else []
    naturals = {image.name: image for image in natural}
    folders = {f: matched(f, list_images(f), natural) for f in args.input_dir}
    made = {folder: runs.read_run(folder) for folder in folders}
    refuse_unlike_repeats(made, folders)
    baselines = find_baselines(args.baseline, made) if args.baseline else {}
    for folder, baseline in baselines.items():
        refuse_incomparable(folder, baseline, folders)
    for folder, run in made.items():
        refuse_unfinished(folder, run)
    for folder, run in made.items():
        warn_of_other_files(folders[folder][0].path, run.get("size"))
        refuse_unlabelled(folder, folders[folder], run.get("targeted"))
        refuse_unpaired(folder, folders[folder], args.nat_dir, naturals)
    targets = Targets(archs, checkpoints, device, args.precision, args.seed)
    for folder, run in made.items():
        warn_of_white_box(folder, run, targets.networks)
        for arch, model in targets.networks.items():
            refuse_other_classes(arch, model.classes, folders[folder])

    answers, changes = classify(
        folders,
        naturals,
        targets,
        devices.batch_size(device, args.batch_size),
        devices.decoders(args.workers),
        Visibility() if args.quality else None,
    )
    if ranks.rank():
        return
    fooled = {
        folder: {
            arch: successes(folders[folder], said, run.get("targeted"))
            for arch, said in answers[folder].items()
        }
        for folder, run in made.items()
    }
    largest = {
        folder: max(change["linf"] for change in by_name.values())
        for folder, by_name in changes.items()
        if by_name
    }
    counted = [
        {
            "folder": str(folder),
            "repeat": repeat_of(folder, run),
            **{key: run.get(key) for key in ("source", "attack", "gamma", "epsilon", "num_steps")},
            "images": len(folders[folder]),
            "targets": {
                arch: count_successes(folders[folder], by_name, answers[None][arch])
                for arch, by_name in fooled[folder].items()
            },
        }
        | ({"largest_perturbation": largest[folder]} if naturals else {})
        | ({"quality": mean_visibility(changes[folder])} if args.quality else {})
        for folder, run in made.items()
    ]
    rows = merge_repeats(counted)
    compare_with_baselines(rows, fooled, baselines)
    compare_published(rows, made, numbers, checkpoints)
    for arch, classes in answers[None].items() if naturals else ():
        known = [i for i in naturals.values() if i.name in classes and i.label is not None]
        records = [{"answer": classes[i.name].index, "label": i.label} for i in known]
        warn_of_accuracy(arch, records)

    if args.output:
        write_table(rows, args.output)
    print(json_text(rows) if args.json else table_text(rows), flush=True)
    if args.answers:
        write_answers(answers, folders, naturals, args.nat_dir, args.answers)
    if args.plot:
        write_plot(rows, args.plot)
    if args.gallery:
        shown = folders[args.input_dir[-1]][:GALLERY_ROWS]
        write_gallery(gallery_examples(shown, naturals, targets, device), args.gallery)
    for folder, run in made.items():
        if run and naturals:
            warn_of_natural(folder, largest[folder])
            refuse_over_epsilon(folder, largest[folder], run.get("epsilon"))


def check(args) -> None:
    """Refuse options that do not go together, and files that could not be written at the end."""
    defence_names.refuse_unknown(args.arch)
    if args.gallery and not args.nat_dir:
        raise cli.UsageError("--gallery needs --nat-dir, the folder of the natural images")
    if args.quality and not args.nat_dir:
        raise cli.UsageError("--quality needs --nat-dir, the folder of the natural images")
    if args.baseline not in (None, "auto") and Path(args.baseline) not in args.input_dir:
        raise cli.UsageError(f"--baseline {args.baseline} is none of --input-dir, and not auto")
    for folder in args.input_dir:
        if args.input_dir.count(folder) > 1:
            raise cli.UsageError(f"{folder} stands twice in --input-dir")
    cli.refuse_unwritable(args.output, ".txt", ".csv", ".md", ".json")
    cli.refuse_unwritable(args.answers, ".csv")
    cli.refuse_unwritable(args.plot, ".png", ".pdf")
    cli.refuse_unwritable(args.gallery, ".png", ".pdf")


if __name__ == "__main__":
    cli.run(main, get_parser())

"""Compute how well folders of adversarial images transfer to target networks.

    python evaluate.py --input-dir adv_images/gamma_1.0 adv_images/gamma_0.5 \
        --nat-dir nat_images --arch vgg19_bn senet154 --output results.csv

Success is the share of images that a target misclassifies or, for targeted attacks, assigns to the
target class. Folders that differ in the random seed alone become one row.
"""

from argparse import ArgumentTypeError
from functools import partial
from pathlib import Path

from suite.defences import defence_names
from suite.running import cli

PUBLISHED_FOLDER = Path(__file__).parent / "data" / "published"
PUBLISHED_NAMES = sorted(file.stem for file in PUBLISHED_FOLDER.glob("*.csv"))


def published_file(text: str) -> Path:
    """Return the file of a name in data/published/, or the file that is given."""
    if text in PUBLISHED_NAMES:
        return PUBLISHED_FOLDER / f"{text}.csv"
    if Path(text).is_file():
        return Path(text)
    raise ArgumentTypeError(f"{text} is neither a file nor one of {', '.join(PUBLISHED_NAMES)}")


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("--input-dir", type=Path, nargs="+", required=True, help="folders of adversarial images")
    add("--arch", nargs="+", default=["efficientnet_lite1", "efficientnet_lite2"],
        help="target networks; paper, transferattack, ta-bench and tpami stand for a protocol's; "
        "with a defence in front: jpeg:75+resnet50")
    cli.add_checkpoint(add)
    add("--seed", type=int, default=0,
        help="random seed of the defences, and of networks that draw random numbers")
    add("--nat-dir", type=Path,
        help="folder of the natural images; also gives the targets' accuracy on them, the success "
        "among those that a target classifies correctly, and the largest perturbation")
    add("--baseline", metavar="FOLDER",
        help="one of the input folders, with which the others are compared image by image; auto "
        "compares each with the one of gamma 1 that differs in gamma alone")
    add("--published", type=published_file, nargs="+", metavar="NAME_OR_FILE",
        help="published rates to compare ours with: a CSV file, or one of "
        f"{', '.join(PUBLISHED_NAMES)}")
    add("--quality", action="store_true",
        help="measure how visible the perturbations are: L2, PSNR, SSIM, LPIPS; needs --nat-dir")
    add("--output", type=Path, nargs="+", default=[],
        help="files to write the table to: .csv, .md, .json or .txt")
    add("--answers", type=Path,
        help="CSV file to write: the class that each target predicts for each image, and the "
        "label's probability")
    add("--plot", type=Path,
        help="PNG or PDF to draw: success over gamma, epsilon or the number of steps, else bars")
    add("--gallery", type=Path,
        help="PNG or PDF to draw: a few images with the targets' answers; needs --nat-dir")
    add("--gallery-dir", type=Path, metavar="FOLDER",
        help="the input folder that the gallery shows; if absent, the last one")
    cli.add_running(add)
    add("--json", action="store_true", help="print the results as JSON")
    # fmt: on
    return parser


def main(args) -> None:
    check(args)

    from suite.attack import settings
    from suite.images import image_checks
    from suite.images.folders import list_images, matched
    from suite.networks import answer_checks
    from suite.networks.protocols import expand_protocols
    from suite.results import paired, plots, published, rates, report, result_checks, transfer
    from suite.results.answers import write_answers
    from suite.results.targets import Targets
    from suite.results.visibility import Visibility, mean_visibility
    from suite.running import devices, ranks, runs

    ranks.join()
    archs = expand_protocols(args.arch)
    checkpoints = defence_names.checkpoints(archs, args.checkpoint)
    numbers = published.read_published(args.published or [])
    device = devices.choose_device(args.no_cuda, args.precision)
    natural = list_images(args.nat_dir) if args.nat_dir else []
    folders = {f: matched(f, list_images(f), natural) for f in args.input_dir}
    made = {folder: runs.read_run(folder, settings.DEFAULTS) for folder in folders}

    result_checks.refuse_unlike_repeats(made, folders)
    targeted = {f: result_checks.is_targeted(f, run, folders[f]) for f, run in made.items()}
    baselines = paired.find_baselines(args.baseline, made) if args.baseline else {}
    for folder, baseline in baselines.items():
        result_checks.refuse_incomparable(folder, baseline, folders, targeted)
    for folder, run in made.items():
        result_checks.refuse_unfinished(folder, run)
        image_checks.warn_of_other_files(folder, folders[folder], run.get("size"))
        image_checks.refuse_unlabelled(folder, folders[folder], targeted[folder])
        image_checks.refuse_own_targets(folders[folder] if targeted[folder] else [])
    targets = Targets(archs, checkpoints, device, args.precision, args.seed)
    natural = answer_checks.by_class_names(targets.networks, natural)
    naturals = {image.name: image for image in natural}
    for folder, run in made.items():
        folders[folder] = answer_checks.by_class_names(targets.networks, folders[folder])
        image_checks.refuse_unpaired(folder, folders[folder], args.nat_dir, naturals)
        result_checks.warn_of_white_box(folder, run, targets.networks)
        for arch, model in targets.networks.items():
            answer_checks.refuse_other_classes(arch, model.classes, folders[folder], model.others)

    answers, changes = transfer.classify(
        folders,
        naturals,
        targets,
        devices.batch_size(device, args.batch_size),
        devices.decoders(args.workers),
        Visibility() if args.quality else None,
    )
    if ranks.rank():
        return

    results, fooled = [], {}
    for folder, run in made.items():
        fooled[folder] = {
            arch: transfer.successes(folders[folder], by_name, targeted[folder])
            for arch, by_name in answers[folder].items()
        }
        result = {"folder": str(folder), "repeat": result_checks.repeat_of(folder, run)}
        for key in ("source", "attack", "gamma", "epsilon", "num_steps"):
            result[key] = run.get(key)
        result["images"] = len(folders[folder])
        if naturals:
            linf = [change["linf"] for change in changes[folder].values()]
            result["largest_perturbation"] = max(linf)
        if args.quality:
            result["quality"] = mean_visibility(changes[folder])
        result["targets"] = {
            arch: transfer.count_successes(folders[folder], by_name, answers[None][arch])
            for arch, by_name in fooled[folder].items()
        }
        results.append(result)
    rows = rates.merge_repeats(results)
    paired.compare_with_baselines(rows, fooled, baselines)
    published.compare_published(rows, made, numbers, checkpoints)
    for arch, by_name in answers[None].items():
        known = [image for image in natural if image.name in by_name and image.label is not None]
        records = [{"answer": by_name[i.name].index, "label": i.label} for i in known]
        answer_checks.warn_of_accuracy(arch, records)

    def draw_gallery(file: Path) -> None:
        folder = args.gallery_dir or args.input_dir[-1]
        shown = folders[folder][: plots.GALLERY_ROWS]
        examples = transfer.gallery_examples(shown, naturals, targets, device, targeted[folder])
        (row,) = (row for row in rows if str(folder) in row["folders"])
        plots.write_gallery(examples, row, file)

    writers = [
        *((file, partial(report.write_table, rows)) for file in args.output),
        (args.answers, partial(write_answers, answers, folders, naturals, args.nat_dir)),
        (args.plot, partial(plots.write_plot, rows)),
        (args.gallery, draw_gallery),
    ]
    checks = [
        partial(result_checks.check_perturbation, folder, largest, run.get("epsilon"))
        for (folder, run), result in zip(made.items(), results, strict=True)
        if run and (largest := result.get("largest_perturbation")) is not None
    ]
    text = report.json_text(rows) if args.json else report.table_text(rows)
    report.publish(text, writers, checks)


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
    if args.gallery_dir and args.gallery_dir not in args.input_dir:
        raise cli.UsageError(f"--gallery-dir {args.gallery_dir} is none of --input-dir")
    for file in args.output:
        cli.refuse_unwritable(file, ".txt", ".csv", ".md", ".json")
    cli.refuse_unwritable(args.answers, ".csv")
    cli.refuse_unwritable(args.plot, ".png", ".pdf")
    cli.refuse_unwritable(args.gallery, ".png", ".pdf")
    outputs = [*args.output, args.answers, args.plot, args.gallery]
    cli.refuse_overwriting(outputs, [*args.input_dir, args.nat_dir], args.published or [])


if __name__ == "__main__":
    cli.run(main, get_parser())

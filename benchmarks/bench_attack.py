"""Attack steps per second: this suite's way against the released code's, and against the bound.

    python benchmarks/bench_attack.py                     # ResNet-50 and DenseNet-201, batch 8
    python benchmarks/bench_attack.py --levers            # and what each lever gives
    python benchmarks/bench_attack.py --arch resnet152 --batch-size 64 --precision bf16

The released way: advertorch's loop, gradients of the parameters computed, torch's default layout,
legacy backward hooks. All ways have the same random weights and images and the same --precision;
where torch's own default is another one, the released way is also measured with that. Each way runs
in a process of its own, which alternate; medians are printed. The bound is the speed of a large
matrix product, measured in between, over the floating-point operations that torch counts in a step.
Needs torch, torchvision, advertorch, safetensors, tqdm, numpy and Pillow.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

RELEASED = "released"
# On a GPU, TF32 for convolutions and not for matrix products; elsewhere float32.
DEFAULT = "released, torch's default precision"
MEMORY = "freed memory kept, huge pages"
ORDER = "sums in a fixed order"  # what is there on a GPU instead, with fp32
# Each has what those before it have.
LEVERS = (
    RELEASED,
    "parameters frozen, one product for each residual module",
    MEMORY,
    "channels_last",
    "batch norms folded",
    "first convolution and dense blocks of acceleration.py",
)


def main() -> None:
    args = get_parser().parse_args()
    if args.child:
        child(args)
        return
    print("| network | way | steps/s | ratio | share of the bound | peak memory |")
    print("|---|---|---|---|---|---|")
    for arch in args.arch:
        measure(arch, args)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", nargs="+", default=["resnet50", "densenet201"])
    parser.add_argument("--gamma", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=2, help="of an attack that is timed")
    parser.add_argument("--rounds", type=int, default=5, help="attacks of each way")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="tf32")
    parser.add_argument("--levers", action="store_true", help="measure each lever")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def measure(arch: str, args) -> None:
    """Run the ways in turn and print a line for each."""
    ways = choose_ways(args)
    children = {way: start(arch, way, args) for way in ("matrix product", *ways)}
    for process in children.values():
        process.stdout.readline()  # it is ready
    rounds = [{way: ask(process) for way, process in children.items()} for _ in range(args.rounds)]
    medians = {way: statistics.median(each[way] for each in rounds) for way in children}
    ratios = {way: statistics.median(each[RELEASED] / each[way] for each in rounds) for way in ways}
    ends = {way: json.loads(process.communicate("\n")[0]) for way, process in children.items()}
    speed = ends["matrix product"]["operations"] / medians["matrix product"]
    bound = speed / ends[RELEASED]["operations"]
    for way in ways:
        steps = args.num_steps / medians[way]
        print(
            f"| {arch} | {label(way, args.levers)} | {steps:.2f} "
            f"| {ratios[way]:.2f} | {100 * steps / bound:.0f} % | {ends[way]['memory']:.2f} GB |",
            flush=True,
        )


def choose_ways(args) -> list[str]:
    ways = [RELEASED]
    if on_gpu() or args.precision == "bf16":
        ways.append(DEFAULT)
    if not args.levers:
        return [*ways, LEVERS[-1]]
    return ways + [x for x in LEVERS[1:] if x != MEMORY or not on_gpu() or args.precision == "fp32"]


def label(way: str, levers: bool) -> str:
    if way in (RELEASED, DEFAULT):
        return way
    if not levers:
        return "this suite"
    return f"+ {ORDER if way == MEMORY and on_gpu() else way}"


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def start(arch: str, way: str, args) -> subprocess.Popen:
    command = [sys.executable, __file__, "--child", way, "--arch", arch]
    for option in ("gamma", "batch_size", "num_steps", "precision"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen) -> float:
    """Have a way do its work; return how many seconds it took."""
    process.stdin.write("again\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def child(args) -> None:
    """Work at each line of input, and print how long it took; at an empty one end."""
    warnings.simplefilter("ignore")
    if args.child not in (DEFAULT, *LEVERS[: LEVERS.index(MEMORY)]):
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as the scripts do, before torch is there
    import torch

    set_precision(args.child, args.precision)
    work, operations = matrix_product(args) if "matrix" in args.child else attack(args)
    synchronize = torch.cuda.synchronize if on_gpu() else lambda: None
    print("ready", flush=True)
    while sys.stdin.readline().strip():
        work()  # the first time, and after another process's work, it is slow
        synchronize()
        begin = time.perf_counter()
        work()
        synchronize()
        seconds = time.perf_counter() - begin
        torch.cuda.empty_cache()  # all ways together may not fit a GPU
        print(seconds, flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if on_gpu():
        memory = torch.cuda.max_memory_allocated()
    print(json.dumps({"operations": operations, "memory": memory / 1e9}))


def set_precision(way: str, precision: str) -> None:
    """Set a GPU's arithmetic, as `devices.choose_device` does, for every way but torch's own."""
    import torch

    if on_gpu() and way != DEFAULT:
        torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
        torch.backends.cudnn.allow_tf32 = precision != "fp32"


def matrix_product(args):
    import torch

    from suite.running import devices

    device = devices.choose_device(False, args.precision)
    size = 2048 if device == "cpu" else 8192
    kind = torch.bfloat16 if args.precision == "bf16" else torch.float32
    one, other = torch.rand(2, size, size, device=device, dtype=kind)
    times = 16  # about as long as an attack

    def work():
        for _ in range(times):
            one @ other

    return work, times * 2 * size**3


def attack(args):
    import torch
    import torchvision
    from torch.utils.flop_counter import FlopCounterMode

    from suite.attack.loop import GradientAttack
    from suite.attack.settings import Attack
    from suite.attack.sources import Source
    from suite.networks import folding
    from suite.networks.classifier import Classifier
    from suite.networks.libraries import NetworkSpec
    from suite.running import devices

    released = args.child in (RELEASED, DEFAULT)
    levers = () if released else LEVERS[: LEVERS.index(args.child) + 1]
    device = "cuda" if on_gpu() else "cpu"
    if MEMORY in levers:
        device = devices.choose_device(False, args.precision)
    torch.manual_seed(0)
    network = torchvision.models.get_model(args.arch[0])
    spec = NetworkSpec(None, (3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None)
    model = Classifier(network, spec, None)
    if released:
        legacy_hooks(network, args.arch[0], args.gamma)
    if "channels_last" in levers:
        model.to(memory_format=torch.channels_last)
    if args.child == LEVERS[-1]:
        model.accelerate(args.precision)
    elif "batch norms folded" in levers:
        folding.fold_batch_norms(network)
    model.bfloat16 = args.precision == "bf16" and args.child != DEFAULT
    model.to(device)
    pixels = torch.rand(args.batch_size, 3, 224, 224).to(device)
    labels = torch.arange(args.batch_size, device=device)
    with FlopCounterMode(display=False) as counter:
        leaf = pixels[:1].clone().requires_grad_()
        model(leaf).sum().backward()
    operations = args.batch_size * counter.get_total_flops()

    if released:
        model.requires_grad_()
        return functools.partial(advertorchs_pgd(model, args.num_steps), pixels, labels), operations
    Source(model, args.gamma, name=args.arch[0]).register_sgm()
    attack = GradientAttack(Attack(num_steps=args.num_steps), [model])
    return functools.partial(attack.perturb, pixels, labels), operations


def advertorchs_pgd(model, steps: int):
    import torch
    from advertorch.attacks import LinfPGDAttack  # importable once suite.attack.loop is imported

    loss = torch.nn.CrossEntropyLoss(reduction="sum")
    arguments = {"eps": 16 / 255, "eps_iter": 2 / 255, "nb_iter": steps, "rand_init": False}
    return LinfPGDAttack(model, loss, **arguments).perturb


def legacy_hooks(network, arch: str, gamma: float) -> None:
    """Register the hooks as they were released, with the API that torch has deprecated."""
    resnet = arch.startswith("resnet")
    factor = gamma if arch in ("resnet18", "resnet34") else gamma**0.5

    def scale(module, grads_in, grads_out):
        return (factor * grads_in[0],)

    def normalise(module, grads_in, grads_out):
        return grads_in[0] / grads_in[0].std(), *grads_in[1:]

    for name, module in network.named_modules():
        if "relu" in name and ("0.relu" not in name if resnet else "transition" not in name):
            module.register_backward_hook(scale)
        if resnet and len(parts := name.split(".")) > 1 and "layer" in parts[-2]:
            module.register_backward_hook(normalise)


if __name__ == "__main__":
    main()

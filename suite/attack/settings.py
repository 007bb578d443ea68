"""What an attack is made of, and what the field calls it."""

from dataclasses import dataclass, fields

from suite.running import options


@dataclass(frozen=True)
class Attack:
    """The settings of an L-infinity attack; by default PGD as in the SGM paper.

    Attributes:
        epsilon: largest perturbation of a pixel, in 1/255.
        step_size: of each step, in 1/255.
        num_steps: how many; one of size epsilon is FGSM.
        momentum: 0 for PGD, above 0 for MI-FGSM with that decay factor.
        di_prob, di_resize: DI's probability, and its largest size relative to the image's.
        ti_kernel, ti_sigma: TI's kernel size in pixels, odd, 1 for none; and how many standard
            deviations it reaches to each side.
        rand_init: whether to start at a random place in the ball.
        targeted: whether to approach the labels instead of leaving them.
        ensemble: "logits" averages the networks' logits, "gradients" adds gradients of norm 1.
        seed: of all random numbers and random target classes.
        loss: one of `losses.LOSSES`.
        nesterov: whether to take the gradient where the momentum leads to, as NI-FGSM does.
        scales: SI's copies of the pixels, x / 2 ** i for i from 0.
        variance, variance_bound: VMI's neighbours, and how far away they are, relative to epsilon.
        admix, admix_ratio: how many images of other classes Admix mixes in, and how much of them.
        block_shuffle: BSR's copies.
        eot: how many random draws of DI, copies and defences each gradient is averaged over.
        own: an `OwnAttack` instead, which gets the settings that it asks for.

    Raises:
        ValueError: settings that do not go together.
    """

    epsilon: float = 16
    step_size: float = 2
    num_steps: int = 10
    momentum: float = 0
    di_prob: float = 0
    di_resize: float = 1.1
    ti_kernel: int = 1
    ti_sigma: float = 3
    rand_init: bool = False
    targeted: bool = False
    ensemble: str = "logits"
    seed: int = 0
    loss: str = "cross-entropy"
    nesterov: bool = False
    scales: int = 1
    variance: int = 0
    variance_bound: float = 1.5
    admix: int = 0
    admix_ratio: float = 0.2
    block_shuffle: int = 0
    eot: int = 1
    own: object = None

    def __post_init__(self):
        wrong = options.contradiction(self)
        if wrong:
            raise ValueError(wrong)
        if self.own:
            self._refuse_ignored()

    @property
    def one_pass(self) -> bool:
        """Whether the gradient is the network's at the pixels, as of PGD and MI-FGSM."""
        copies = self.scales > 1 or self.admix > 0 or self.block_shuffle > 0 or self.eot > 1
        return not (copies or self.nesterov or self.variance)

    @property
    def evaluations(self) -> int:
        """How many gradients of the network make one step, of which PGD takes one."""
        return options.evaluations(self)

    @property
    def name(self) -> str:
        """The field's name of the attack: PGD, MI-FGSM+DI, FGSM, VNI-FGSM+SI+DI, ..."""
        if self.own:
            return "targeted " * self.targeted + self.own.name
        if self.num_steps == 1 and self.step_size == self.epsilon:
            name = "FGSM"
        elif self.momentum:
            name = "V" * (self.variance > 0) + ("NI-FGSM" if self.nesterov else "MI-FGSM")
        else:
            name = "PGD" + "+VT" * (self.variance > 0)
        on_top = {
            "SI": self.scales > 1,
            "Admix": self.admix > 0,
            "BSR": self.block_shuffle > 0,
            "DI": self.di_prob > 0,
            "TI": self.ti_kernel > 1,
            "EOT": self.eot > 1,
            self.loss: self.loss != "cross-entropy",
        }
        return "targeted " * self.targeted + "+".join([name, *(x for x in on_top if on_top[x])])

    def _refuse_ignored(self) -> None:
        taken = {"epsilon", "seed", "own", *self.own.asks}
        ignored = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        ignored = [f"--{name.replace('_', '-')}" for name in ignored if name not in taken]
        if ignored:
            raise ValueError(
                f"{self.own.name} does not ask for {', '.join(ignored)}: leave it out, or give the "
                "function a parameter of that name"
            )

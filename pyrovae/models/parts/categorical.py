"""The likelihood of entries that are codes of categories without an order, and their distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.models.parts.encoder_inputs import OneHot
from pyrovae.models.registry import register

__all__ = ["Categorical", "Codes", "classes"]


@register("categorical", kind="likelihood")
class Categorical(nn.Module):
    """Entries that are codes 0..C - 1 of categories, independent given C logits each: log p(x) = l_x - log sum exp(l).

    The entries have no mean: `vae.probabilities(z)` is what `decode` is of others. `num_classes` is C, the same for
    all entries; ValueError without it. A builder's encoder sees the codes one-hot.

    >>> import torch
    >>> from pyrovae import Categorical, mlp_vae
    >>> Categorical(num_classes=3)(*torch.zeros(3, 2)).log_prob(torch.tensor([0.0, 2.0]))
    tensor([-1.0986, -1.0986])
    >>> mlp_vae((4,), likelihood=Categorical(num_classes=3)).probabilities(torch.zeros(5, 2)).shape
    torch.Size([5, 4, 3])
    """

    base_measure = "mass"

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        self.num_classes = classes("categorical", num_classes)

    @property
    def num_parameters(self) -> int:
        """The number of parameters of an entry that the network gives."""
        return self.num_classes

    @property
    def support(self) -> constraints.Constraint:
        """The codes 0..C - 1."""
        return constraints.integer_interval(0, self.num_classes - 1)

    def forward(self, *logits: Tensor) -> Codes:
        return Codes(torch.stack(torch.broadcast_tensors(*logits), -1).log_softmax(-1))

    def probabilities(self, p: Codes) -> Tensor:
        """The probability of each category, in one more axis at the end."""
        return p.log_probabilities.exp()

    def encoder_input(self, event_shape: tuple[int, ...]) -> OneHot:
        """What a builder's encoder sees of the codes."""
        return OneHot(self.num_classes, len(event_shape))

    def extra_repr(self) -> str:
        """What sets two of them apart."""
        return f"num_classes={self.num_classes}"


class Codes(TorchDistribution):
    """A distribution over the codes 0..C - 1 by their log-probabilities, (..., C), which sum to 1 as probabilities.

    Its draws are whole numbers in the dtype of these. Without a mean: ValueError.

    >>> import torch
    >>> from pyrovae.models.parts.categorical import Codes
    >>> p = Codes(torch.tensor([0.5, 0.25, 0.25]).log())
    >>> p.log_prob(torch.tensor(2.0)), p.mode, p.enumerate_support()
    (tensor(-1.3863), tensor(0.), tensor([0., 1., 2.]))
    """

    arg_constraints = {"log_probabilities": constraints.independent(constraints.real, 1)}  # noqa: RUF012
    has_enumerate_support = True

    def __init__(
        self, log_probabilities: Tensor, *, name: str = "categorical", validate_args: bool | None = None
    ) -> None:
        self.log_probabilities, self._name = log_probabilities, name
        super().__init__(log_probabilities.shape[:-1], validate_args=validate_args)

    @property
    def num_classes(self) -> int:
        """The number of categories."""
        return self.log_probabilities.shape[-1]

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The codes 0..C - 1."""
        return constraints.integer_interval(0, self.num_classes - 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Codes:
        expanded = self.log_probabilities.expand(*batch_shape, self.num_classes)
        return Codes(expanded, name=self._name, validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        shape = torch.broadcast_shapes(x.shape, self.batch_shape)
        index = x.expand(shape).long()[..., None]
        return self.log_probabilities.expand(*shape, self.num_classes).gather(-1, index).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """Refused: codes have no mean."""
        raise ValueError(f"{_article(self._name)} entry has no mean: take probabilities(z), or draws")

    @property
    def variance(self) -> Tensor:
        """Refused: codes have no variance."""
        raise ValueError(f"{_article(self._name)} entry has no variance: take probabilities(z), or draws")

    @property
    def mode(self) -> Tensor:
        """The code of the largest probability."""
        return self.log_probabilities.argmax(-1).to(self.log_probabilities.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            rows = self.log_probabilities.exp().expand(*shape, self.num_classes).reshape(-1, self.num_classes)
            drawn = torch.multinomial(rows, 1, replacement=True) if len(rows) else rows.new_zeros(0, 1)
            return drawn.reshape(shape).to(self.log_probabilities.dtype)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All codes, in a new first axis."""
        codes = torch.arange(self.num_classes, dtype=self.log_probabilities.dtype, device=self.log_probabilities.device)
        codes = codes.reshape(-1, *[1] * len(self.batch_shape))
        return codes.expand(-1, *self.batch_shape) if expand else codes


def classes(name: str, num_classes: Any) -> int:
    """The checked number of categories; ValueError where it is not given, with how to give it."""
    if num_classes is None:
        raise ValueError(
            f"num_classes of the {name} likelihood must be given, the number of codes that an entry may have: "
            f"likelihood='{name}(num_classes=5)', or the module with that argument"
        )
    return checks.whole("num_classes", num_classes, least=2)


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"

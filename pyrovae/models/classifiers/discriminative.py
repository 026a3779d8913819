"""A classifier that models p(y | x) alone: softmax regression, or a multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.models.classifiers.classes import Classifier, named_classes
from pyrovae.models.items import checked_items
from pyrovae.models.networks import MLP
from pyrovae.models.pair import dtype_and_device
from pyrovae.models.param_sites import register_param_sites
from pyrovae.models.registry import register
from pyrovae.models.scopes import evaluation_mode
from pyrovae.summary import Rows

__all__ = ["DiscriminativeClassifier"]


@register("DiscriminativeClassifier", kind="builder")
class DiscriminativeClassifier(Classifier):
    """p(y | x) alone, as a Pyro pair: "label" ~ Categorical(softmax(network(x))), with a Normal prior on the weights.

    Softmax regression where `hidden_dims` is empty, else a multilayer perceptron. The prior is N(0, prior_scale^2) on
    every weight and bias, so that `pyrovae.fit(classifier, x, y)` finds the posterior's mode; `prior_scale=None` is
    maximum likelihood. It says nothing of x: no p(x), no samples, no missing entries.

    `classes`: the names, which a fit's labels must then be; None: 0 to `num_classes` - 1 until a first fit finds them
    in its labels. Raises ValueError for sizes below
    1 (below 2 classes), a scale that is not positive, unknown activations.

    (Bishop 2006, section 4.3.4.)

    >>> import torch
    >>> from pyrovae import DiscriminativeClassifier
    >>> classifier = DiscriminativeClassifier((2,), 3)
    >>> classifier.predict_log_proba(torch.zeros(4, 2)).shape, classifier.predict(torch.zeros(4, 2)).dtype
    (torch.Size([4, 3]), torch.int64)
    """

    is_normalized = False  # it has no p(x)
    has_global_latents = True
    latent_dim = 0
    why_no_missing = (
        "p(y | x) alone says nothing of x, by which they could be integrated out: fill them first, or take a "
        "GenerativeClassifier"
    )

    def __init__(
        self,
        event_shape: Sequence[int],
        num_classes: int,
        *,
        hidden_dims: Sequence[int] = (),
        activation: str = "relu",
        prior_scale: float | None = 10.0,
        classes: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = checks.sizes("event_shape", event_shape)
        count = checks.whole("num_classes", num_classes, least=2, bytes_each=8 + 4 * math.prod(self.event_shape))
        widths = checks.sizes("hidden_dims", hidden_dims, one=False)
        self.names, self.names_are_given = named_classes(classes, count), classes is not None
        self.prior_scale = None if prior_scale is None else checks.positive("prior_scale", prior_scale)
        with exclusive():
            self.network = MLP(self.event_shape, (count,), hidden_dims=widths, activation=activation)

    def _summary_of_parts(self) -> Rows:
        return {
            "num_classes": lambda: self.num_classes,
            "hidden_dims": self._summary_widths,
            "prior_scale": lambda: "none" if self.prior_scale is None else self.prior_scale,
        }

    def _summary_widths(self) -> tuple[int, ...]:
        return tuple(layer.out_features for layer in self.network.layers[:-1] if isinstance(layer, nn.Linear))

    @property
    def is_linear(self) -> bool:
        """Whether the classifier is softmax regression, whose log posterior is concave."""
        return len(self.network.layers) == 1

    def model(
        self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1, total: int | None = None
    ) -> Tensor:
        """p(weights) prod_n p(label_n | x_n): observed where the labels' numbers `y`, (N,), are given.

        `total`: of how many items these are a batch: their log-likelihood is scaled to it. ValueError without `x`.
        """
        if x is None:
            raise ValueError("p(y | x) says nothing of x: give model(x), or take a GenerativeClassifier")
        weights = self._weights()
        with pyro.plate("data", total or len(x), subsample=torch.arange(len(x), device=x.device)):
            return pyro.sample("label", dist.Categorical(logits=self._logits(weights, x)), obs=y)

    def _logits(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The logits, (N, C), or (S, ..., N, C) at weights of leading shape (S, ..., 1), as of vectorised draws."""

        def one(of_one: Mapping[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.network, dict(of_one), (x,))

        parameters = dict(self.network.named_parameters())
        lead = torch.broadcast_shapes(*(w.shape[: w.ndim - parameters[name].ndim] for name, w in weights.items()))
        if not lead:
            return one(weights)
        expanded = {name: w.expand(*lead, *parameters[name].shape) for name, w in weights.items()}
        rows = torch.vmap(one)({name: w.reshape(-1, *parameters[name].shape) for name, w in expanded.items()})
        return rows.unflatten(0, lead[:-1]) if len(lead) > 1 else rows

    def guide(
        self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1, total: int | None = None
    ) -> None:
        """A Delta distribution at the parameter for each weight."""
        register_param_sites(self._site_prefix, self)
        if self.prior_scale is not None:
            for name, value in self.network.named_parameters():
                pyro.sample(_site(name), dist.Delta(value).to_event(value.ndim))

    def _weights(self) -> dict[str, Tensor]:
        """The network's weights: drawn at sites under their prior, or the parameters where there is no prior."""
        register_param_sites(self._site_prefix, self)
        named = dict(self.network.named_parameters())
        if self.prior_scale is None:
            return named  # type: ignore[return-value]
        weights = {}
        checks.scale_in("prior_scale", self.prior_scale, dtype_and_device(self)[0])
        for name, value in named.items():
            law = dist.Normal(torch.zeros_like(value), self.prior_scale).to_event(value.ndim)
            weights[name] = pyro.sample(_site(name), law)
        return weights

    def log_prior(self, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """log p(weights) in nats, of the present weights where none are given; 0 without a prior."""
        if self.prior_scale is None:
            return next(self.network.parameters()).new_zeros(())
        checks.scale_in("prior_scale", self.prior_scale, dtype_and_device(self)[0])
        given: Any = self.network.parameters() if weights is None else weights.values()
        laws = ((dist.Normal(torch.zeros_like(p), self.prior_scale), p) for p in given)
        return torch.stack([law.log_prob(p).sum() for law, p in laws]).sum()

    def predict_log_proba(self, x: Any) -> Tensor:
        """log p(y | x) at the present weights, (N, C), in nats; columns as in `classes_`. Differentiable."""
        tensor = checked_items(self, x)
        with evaluation_mode(self):
            return self.network(tensor.to(dtype_and_device(self)[1])).log_softmax(-1)


def _site(name: str) -> str:
    """The site name of a parameter: "layers.0.weight" is "weight_0"."""
    _, layer, kind = name.split(".")
    return f"{kind}_{int(layer) // 2}"

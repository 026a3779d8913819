"""torch's default dtype: a pair computes in its own, to the same bits whatever the default is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from conftest import default_dtype
from safetensors.torch import load_file
from torch import Tensor, nn

import pyrovae
from pyrovae.inference.checkpoint import RUN

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of fits that are cut short

DRAWS = torch.rand(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = np.arange(10) % 2
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "compile": False, "learning_rate": 0.01}
NUTS = {"method": "nuts", "num_chains": 1, "num_draws": 3, "num_warmup": 3}


def bits(found: Any) -> Iterator[np.ndarray]:
    """All numbers of what a call gave, in their own dtypes."""
    if isinstance(found, nn.Module):
        yield from bits([*found.state_dict().values()])
    elif isinstance(found, Tensor):
        yield found.detach().numpy()
    elif isinstance(found, np.ndarray | np.generic | float | int):
        yield np.asarray(found)
    elif isinstance(found, xr.DataTree):
        yield from bits(found.to_dataset())
    elif isinstance(found, xr.Dataset):
        yield from (found[name].values for name in sorted(found.data_vars) if found[name].dtype.kind in "biuf")
    elif isinstance(found, list | tuple):
        for one in found:
            yield from bits(one)
    elif found is not None:
        yield from bits(next(getattr(found, name) for name in ("pointwise", "tests", "epochs") if hasattr(found, name)))


def fitted(pair: Any, *given: Any, **options: Any) -> list[Any]:
    own = deepcopy(pair)
    history = pyrovae.fit(own, *given, progress=False, device="cpu", **options)
    return [own, history.epochs.drop_vars("seconds")]


def calls() -> dict[str, Callable[[], Any]]:
    """Public calls, of pairs and items in float32."""
    with default_dtype(torch.float32):
        torch.manual_seed(0)
        vae = pyrovae.mlp_vae((4,), hidden_dims=(5,))
        scaled = pyrovae.mlp_vae((4,), hidden_dims=(5,), likelihood=pyrovae.Normal(scale=None))
        grey = pyrovae.mlp_vae((4,), hidden_dims=(5,), likelihood="continuous_bernoulli")
        ae = pyrovae.mlp_ae((4,), hidden_dims=(5,))
        images = pyrovae.conv_vae((1, 8, 8), channels=(2, 2), strides=(2, 1), likelihood="normal")
        linear = pyrovae.linear_vae(4, 2)
        mixture = pyrovae.GaussianMixture((4,), 2)
        bayesian = pyrovae.BayesianGaussianMixture((4,), 2)
        softmax = pyrovae.DiscriminativeClassifier((4,), 2, prior_scale=1.0)
        normal = pyrovae.gaussian_classifier((4,), 2)
        by_bayes = pyrovae.GenerativeClassifier({0: scaled, 1: linear}, evidence=partial(pyrovae.iwae, num_particles=5))
    x = DRAWS.float()
    binary = x.round()
    pictures = x.repeat(3, 2)[:28].reshape(-1)[: 3 * 64].reshape(3, 1, 8, 8)
    gappy = torch.where(torch.tensor([True, False, False, False]), torch.nan, binary[:2])
    quiet = {"progress": False}
    tree = partial(pyrovae.to_arviz, x=binary, num_draws=2)

    def svi() -> list[Any]:
        own = deepcopy(linear)
        steps = pyro.infer.SVI(own.model, own.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return [[steps.step(x) for _ in range(3)], own]

    return {
        "fit": lambda: fitted(vae, binary, validation=binary[:3], **QUICK),
        "fit of the importance weighted bound": lambda: fitted(scaled, x, objective="iwae", num_particles=3, **QUICK),
        "fit of a continuous Bernoulli": lambda: fitted(grey, x, **QUICK),
        "fit of grey items": lambda: fitted(vae, x, binarize=True, validation=x, warmup=1, **QUICK),
        "fit of images": lambda: fitted(images, pictures, **QUICK),
        "fit of an autoencoder": lambda: fitted(ae, binary, **QUICK),
        "fit by EM": lambda: fitted(mixture, x, num_restarts=2, max_iterations=3),
        "fit of normal classes": lambda: fitted(normal, x, LABELS),
        "fit by L-BFGS": lambda: fitted(softmax, x, LABELS, validation=(x, LABELS), max_iterations=3),
        "fit of a Bayesian mixture": lambda: fitted(bayesian, x, epochs=2, batch_size=4),
        "fit by NUTS": lambda: fitted(bayesian, x, **NUTS),
        "Pyro's own SVI": svi,
        "elbo": lambda: pyrovae.elbo(vae, binary, num_particles=3),
        "iwae": lambda: pyrovae.iwae(vae, binary, num_particles=7),
        "iwae of a continuous Bernoulli": lambda: pyrovae.iwae(grey, x, num_particles=7),
        "exact": lambda: pyrovae.exact(linear, x),
        "quadrature": lambda: pyrovae.quadrature(scaled, x[:2], tol=0.01),
        "bdmc": lambda: pyrovae.bdmc(vae, 2, num_chains=3, num_steps=4, **quiet),
        "gaps": lambda: pyrovae.gaps(scaled, x[:2], pyrovae.quadrature(scaled, x[:2], tol=0.1), **quiet),
        "calibrate": lambda: pyrovae.calibrate(linear, num_simulations=20, num_draws=3),
        "sample": lambda: [p.sample(5, seed=1) for p in (vae, scaled, grey, linear, mixture, bayesian)],
        "encode": lambda: [vae.encode(binary), vae.reconstruct(binary), pyrovae.encoded(vae, binary)],
        "decode": lambda: [vae.decode(x[:, :2]), pyrovae.decoded(vae, x[:, :2])],
        "impute": lambda: [vae.impute(gappy, num_draws=2, num_steps=2)],
        "mixture": lambda: [mixture.log_prob(x), mixture.conditional(gappy).mean],
        "classify": lambda: [by_bayes.predict_log_proba(x[:3]), normal.log_joint(x), softmax.predict_log_proba(x)],
        "predictions": lambda: pyrovae.predictions(softmax, x, LABELS),
        "to_arviz": lambda: [tree(vae)[group] for group in ("posterior", "prior_predictive", "log_evidence")],
        "as_density": lambda: pyrovae.as_density(ae, pyrovae.GaussianPrior.fit(ae.encode(binary)), scale=0.5),
    }


def under_both(call: Callable[[], Any]) -> list[list[np.ndarray]]:
    """What it gives under float32 and float64 as the default."""
    found = []
    for default in (torch.float32, torch.float64):
        pyro.clear_param_store()
        with default_dtype(default):
            found.append([*bits(call())])
    return found


@pytest.mark.usefixtures("short_pilot")
@pytest.mark.parametrize("call", calls())
def test_the_default_dtype_changes_no_bit(call: str) -> None:
    one, other = under_both(lambda: calls()[call]())
    assert len(one) == len(other) > 0
    for ours, theirs in zip(one, other, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")


@pytest.mark.usefixtures("interpreted")
def test_the_default_dtype_changes_no_bit_of_compiled_steps(tmp_path: Path) -> None:
    with default_dtype(torch.float32):
        torch.manual_seed(0)
        vae = pyrovae.mlp_vae((4,), hidden_dims=(5,))
    x = DRAWS.float().round()

    def run() -> list[Any]:
        """The weights, the losses, and all else that the steps keep."""
        folder = tmp_path / str(torch.get_default_dtype())
        found = fitted(vae, x, checkpoint=folder, **QUICK | {"compile": True})
        return [found, [*load_file(folder / "epoch-000001" / RUN).values()]]

    one, other = under_both(run)
    assert len(one) > len(vae.state_dict()) + 4
    for ours, theirs in zip(one, other, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("saved_under", [torch.float32, torch.float64])
def test_a_state_is_loaded_in_the_dtype_that_it_was_saved_in(saved_under: torch.dtype, tmp_path: Path) -> None:
    with default_dtype(saved_under):
        vae = pyrovae.mlp_vae((4,), hidden_dims=(5,), likelihood=pyrovae.Normal(scale=None))
        pyrovae.save(tmp_path / "state", vae)
    one, other = under_both(lambda: pyrovae.load(tmp_path / "state"))
    for ours, theirs, saved in zip(one, other, vae.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype == saved.numpy().dtype
        assert np.array_equal(ours, saved) and np.array_equal(theirs, saved)

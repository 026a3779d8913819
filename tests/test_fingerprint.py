"""The hash of a pair: it differs where the density may, and is the same in every process and after every call."""

from __future__ import annotations

import copy
import functools
import math
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae.evaluation.estimate import pair_hash
from pyrovae.models.describing import LARGE, MOST
from pyrovae.models.fingerprint import attributes, differing

STATES = Path(__file__).parent / "states"

# as they were before anything but plain public values of the parts was looked at
HASHES = {
    "DiscriminativeClassifier": "e66bf9e2ea0e4ba5",
    "conv_ae": "d32428c8cceeb434",
    "conv_vae_normal": "a81627b236cd0024",
    "linear_vae": "602ac762c4b746ad",
    "mlp_ae": "09242dd2dcc3cfcc",
    "mlp_vae": "aa0e6379c3dfae5a",
    "mlp_vae_family": "a92e54b4d7c20845",
    "mlp_vae_fixed_normal": "92ad8819e19df880",
    "mlp_vae_learned_normal": "62afed05de48821e",
}


class Factor(nn.Module):
    """The factor model of the README, with a noise scale on the pair itself."""

    event_shape, latent_dim, is_normalized = (3,), 1, True

    def __init__(self, scale=None):
        super().__init__()
        self.loadings, self.encoder = nn.Parameter(torch.ones(3)), nn.Linear(3, 1)
        nn.init.constant_(self.encoder.weight, 0.1)
        nn.init.constant_(self.encoder.bias, 0.1)
        if scale is not None:
            self.scale = scale

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            self.called(z)
            return pyro.sample("obs", dist.Normal(z * self.loadings, getattr(self, "scale", 1.0)).to_event(1), obs=x)

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("latent", dist.Normal(self.encoder(x), 0.5).to_event(1))

    def called(self, z):
        """What a call leaves on the pair."""


class Part(nn.Module):
    """A likelihood that keeps whatever it is given."""

    support = constraints.real

    def __init__(self, **kept):
        super().__init__()
        vars(self).update(kept)

    def forward(self, loc):
        return dist.Normal(loc, 1.0)


@dataclass
class Config:
    df: float


class Slotted:
    __slots__ = ("__df",)

    def __init__(self, df):
        self.__df = df


class Linked:
    def __init__(self, df):
        self.df, self.others = df, []


def linked(count, df):
    """Objects of which each holds all others."""
    objects = [Linked(i) for i in range(count)]
    objects[-1].df = df
    for each in objects:
        each.others = [other for other in objects if other is not each]
    return objects


class Odd:
    """Raises whatever it is asked, and can be called."""

    def __call__(self):
        return 1

    def __getattr__(self, name):
        raise KeyError(name)


class Unbound:
    """A proxy of nothing yet, which does not know its class."""

    @property
    def __class__(self):
        raise RuntimeError("unbound")

    def __repr__(self):
        raise RuntimeError("unbound")


class Unwilling(dict):
    def __len__(self):
        raise OSError("closed")

    __iter__ = items = values = __len__


def pair_with(**kept):
    torch.manual_seed(0)
    return pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=Part(**kept))


def closure(value):
    return lambda loc: dist.StudentT(value, loc, 1.0)


def with_default(value):
    def give(loc, df=value):
        return dist.StudentT(df, loc, 1.0)

    return give


def hidden(value):
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, value)
    nn.init.constant_(layer.bias, 0.0)
    return [layer]


KEPT = {
    "private number": lambda v: {"_df": v},
    "dictionary": lambda v: {"options": {"df": v, "name": "t"}},
    "list of dictionaries": lambda v: {"options": [{"df": v}]},
    "set": lambda v: {"seen": {"a", "b", str(v)}},
    "closure": lambda v: {"give": closure(v)},
    "default": lambda v: {"give": with_default(v)},
    "partial": lambda v: {"give": functools.partial(dist.StudentT, v)},
    "method": lambda v: {"give": Config(v).__eq__},
    "code": lambda v: {"give": (lambda loc: loc + 1) if v == 1 else (lambda loc: loc + 2)},
    "torch's function": lambda v: {"activation": torch.tanh if v == 1 else torch.relu},
    "private tensor": lambda v: {"_loc": torch.full((2,), float(v))},
    "dataclass": lambda v: {"config": Config(v)},
    "namespace": lambda v: {"config": SimpleNamespace(df=v)},
    "transform": lambda v: {"bend": transforms.Permute(torch.tensor([0, 1] if v == 1 else [1, 0]))},
    "inverse transform": lambda v: {"bend": transforms.AffineTransform(0.0, float(v)).inv},
    "composed transform": lambda v: {"bend": transforms.ComposeTransform([transforms.AffineTransform(0.0, float(v))])},
    "normal": lambda v: {"base": dist.Normal(0.0, float(v)).to_event(0)},
    "bernoulli": lambda v: {"base": dist.Bernoulli(logits=torch.tensor(float(v)))},
    "geometric": lambda v: {"base": dist.Geometric(probs=torch.tensor(v / 4))},
    "mixture": lambda v: {
        "base": dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([0.0, v]), 1.0))
    },
    "constraint": lambda v: {"support": constraints.interval(0.0, float(v))},
    "hidden module": lambda v: {"others": hidden(float(v))},
    "objects in an array": lambda v: {"rows": np.array([Config(v), closure(v), {"df": v}], dtype=object)},
    "objects in a record": lambda v: {"rows": np.array([(1, Config(v))], dtype=[("a", int), ("b", object)])},
    "slots": lambda v: {"config": Slotted(v)},
    "linked objects": lambda v: {"graph": linked(8, v)},
    "many rows": lambda v: {"rows": [{"i": i, "v": float(i)} for i in range(LARGE)] + [{"i": 0, "v": v}]},
    "many words": lambda v: {"_words": {str(v * i) for i in range(LARGE + 2)}},
    "large array": lambda v: {"_table": np.append(np.zeros(300_000), v)},
    "backwards": lambda v: {"order": np.arange(v, 4)[::-1]},
}


class TestWhatCounts:
    @pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
    def test_a_setting_of_a_part(self, kept):
        one, again, other = (pair_hash(pair_with(**kept(value))) for value in (1, 1, 2))
        assert one == again
        assert one != other
        pair = pair_with(**kept(1))
        assert pair_hash(copy.deepcopy(pair)) == one

    def test_a_forward_hook(self):
        pair = pair_with()
        before = pair_hash(pair)
        handle = pair.likelihood.network.register_forward_hook(lambda module, given, out: 3 * out.tanh())
        assert pair_hash(pair) != before
        handle.remove()
        assert pair_hash(pair) == before

    def test_a_pairs_own_setting_is_no_gap_and_no_evidence(self):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        narrow, wide = Factor(1.0), Factor(3.0)
        evidence, bound = pyrovae.quadrature(narrow, x), pyrovae.elbo(wide, x)
        with pytest.raises(ValueError, match="quadrature of one pair and elbo of another"):
            evidence - bound
        with pytest.raises(ValueError, match="evidence must be an estimate of the same pair and items: pair_sha256"):
            pyrovae.gaps(wide, x, evidence, max_steps=2, num_evaluation=10, progress=False)
        # the true value, of a Normal with covariance w w' + s^2 I
        for pair, scale in ((narrow, 1.0), (wide, 3.0)):
            law = torch.distributions.MultivariateNormal(torch.zeros(3), torch.ones(3, 3) + scale**2 * torch.eye(3))
            assert pyrovae.quadrature(pair, x).mean == pytest.approx(float(law.log_prob(x).mean()), abs=1e-4)

    def test_what_a_pair_states_of_itself_does_not(self):
        class Named(pyrovae.VAE):
            pass

        parts = copy.deepcopy(pair_with())
        pair = Named(parts.prior, parts.likelihood, parts.posterior)
        assert attributes(pair) == {}
        pair.event_shape = (3,)
        assert attributes(pair) == {}

    def test_a_function_that_a_module_of_torch_keeps(self):
        torch.manual_seed(0)
        hashes = set()
        for activation in (torch.tanh, torch.sigmoid):
            pair = Factor()
            pair.encoder = nn.Sequential(nn.TransformerEncoderLayer(2, 1, 4, activation=activation))
            nn.Module.requires_grad_(pair, False)
            for tensor in pair.parameters():
                tensor.fill_(0.5)
            hashes.add(pair_hash(pair))
        assert len(hashes) == 2

    def test_a_forward_that_is_put_on_a_part_of_ours(self):
        pair = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood="normal")
        before = pair_hash(pair)
        pair.likelihood.family.forward = lambda loc: dist.Laplace(loc, 1.0)
        assert pair_hash(pair) != before


class TestWhatDoesNot:
    def test_what_is_computed_on_demand_and_kept(self):
        base = dist.Bernoulli(logits=torch.zeros(2))
        spread = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        geometric = dist.Geometric(probs=torch.tensor(0.25))
        bend = transforms.AffineTransform(0.0, 2.0, cache_size=1)
        pair = pair_with(base=base, spread=spread, bend=bend, geometric=geometric)
        before = pair_hash(pair)
        _ = base.probs, spread.precision_matrix, bend(torch.ones(2)), bend.inv, geometric.logits
        assert pair_hash(pair) == before

    @pytest.mark.parametrize("kind", ["count", "last", "list", "once", "private"])
    @pytest.mark.usefixtures("short_pilot")
    def test_what_a_call_writes(self, kind):
        class Noting(Factor):
            def called(self, z):
                if kind == "count":
                    self.calls = getattr(self, "calls", 0) + 1
                elif kind == "last":
                    self.last = z
                elif kind == "list":
                    vars(self).setdefault("codes", []).append(z.shape)
                elif kind == "once" and not hasattr(self, "table"):
                    self.table = torch.arange(3)
                elif kind == "private":
                    self._calls = getattr(self, "_calls", 0) + 1

        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        pair, fresh = Noting(2.0), Noting(2.0)
        first = pyrovae.bdmc(pair, 3, num_chains=2, num_steps=3, progress=False)[0]
        evidence = pyrovae.quadrature(pair, x)
        gaps = pyrovae.gaps(pair, x, evidence, max_steps=2, num_evaluation=10, progress=False)
        assert math.isfinite(float(gaps.pointwise["approximation"].mean()))
        second = pyrovae.bdmc(pair, 3, num_chains=2, num_steps=3, progress=False)[0]
        assert first.pointwise.equals(second.pointwise)
        hashes = {pair_hash(pair), pair_hash(copy.deepcopy(pair)), evidence.pointwise.attrs["pair_sha256"]}
        hashes.add(pyrovae.elbo(fresh, x).pointwise.attrs["pair_sha256"])
        assert len(hashes) == 1
        pair.scale = 3.0  # control: a setting still counts
        assert pyrovae.elbo(pair, x).pointwise.attrs["pair_sha256"] not in hashes
        assert differing(pair, fresh) == ["scale"]

    @pytest.mark.parametrize("own", [True, False], ids=["pair", "part"])
    def test_what_the_first_call_fills_in_does(self, own):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        if own:

            class Filling(Factor):
                scale = None

                def called(self, z):
                    self.scale = 1.0 if self.scale is None else self.scale

            pair = holder = Filling()
        else:

            class Scaled(Part):
                scale = None

                def forward(self, loc):
                    self.scale = 1.0 if self.scale is None else self.scale
                    self.calls = getattr(self, "calls", 0) + 1
                    return dist.Normal(loc, self.scale)

            pair = pair_with()
            pair.likelihood.family = holder = Scaled()
        first, again = pyrovae.elbo(pair, x), pyrovae.elbo(pair, x)
        assert holder.scale == 1.0
        assert first.pointwise.equals(again.pointwise)
        holder.scale = 3.0
        wide = pyrovae.elbo(pair, x)
        assert wide.pointwise.attrs["pair_sha256"] != first.pointwise.attrs["pair_sha256"]
        assert wide.mean != first.mean
        if own:  # the true value, of a Normal with covariance w w' + s^2 I
            law = torch.distributions.MultivariateNormal(torch.zeros(3), torch.ones(3, 3) + 9 * torch.eye(3))
            assert pyrovae.quadrature(pair, x).mean == pytest.approx(float(law.log_prob(x).mean()), abs=1e-4)

    def test_a_part_that_is_filled_as_it_is_built_keeps_a_setting(self):
        class Filled(Part):
            scale, positions = None, None

            def forward(self, loc):
                self.scale = 1.0 if self.scale is None else self.scale
                if self.positions is None or len(self.positions) != len(loc):
                    self.positions = torch.arange(len(loc))
                return dist.Normal(loc, self.scale)

        def built():
            torch.manual_seed(0)
            return pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=Filled())

        one, other = built(), built()
        assert one.likelihood.family.scale == 1.0
        assert pair_hash(one) == pair_hash(other)
        before = pair_hash(one)
        one.likelihood(torch.zeros(7, 2))
        assert pair_hash(one) == before  # a table for so many items is none
        other.likelihood.family.scale = 3.0
        assert pair_hash(other) != before
        assert differing(one, other) == ["likelihood.family.scale"]

    def test_a_count_in_a_part_whose_pair_is_in_half_precision(self):
        class Counting(Part):
            def forward(self, loc):
                self.calls = getattr(self, "calls", 0) + 1
                return super().forward(loc)

        torch.manual_seed(0)
        pair = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=Counting()).half()
        vars(pair.likelihood.family).pop("_written")  # as if it were new to it
        first, second = (pyrovae.elbo(pair, torch.zeros(2, 3)).pointwise.attrs["pair_sha256"] for _ in range(2))
        assert first == second

    def test_the_note_goes_with_a_pickle_and_is_in_nobodys_way(self):
        pair = pair_with(_df=2)
        vars(pair.likelihood.family)["_written"] = frozenset({"_df"})
        again = pickle.loads(pickle.dumps(pair))
        assert pair_hash(again) == pair_hash(pair)
        assert "_written" not in repr(again) + str(again) + str(list(again.state_dict()))


class TestWhatIsNotSeen:
    def test_nothing_raises(self):
        around = []
        around.append(around)
        odd, again = pair_with(), pair_with()
        for pair in (odd, again):  # copy.deepcopy would ask them
            kept = {"odd": Odd(), "unbound": [Unbound()], "unwilling": Unwilling(a=1), "around": around}
            vars(pair.likelihood.family).update(kept)
        assert pair_hash(odd) == pair_hash(again)
        assert pair_hash(odd) != pair_hash(pair_with(around=around))
        x = torch.zeros(2, 3)
        assert pyrovae.elbo(odd, x).mean == pyrovae.elbo(again, x).mean

    def test_shared_objects_are_looked_at_once(self):
        one, other = Config(1), Config(2)
        for _ in range(40):  # 2^40 ways to the innermost
            one, other = Linked(one), Linked(other)
            one.others, other.others = one.df, other.df
        assert pair_hash(pair_with(_deep=one)) == pair_hash(pair_with(_deep=copy.deepcopy(one)))
        assert pair_hash(pair_with(_deep=one)) != pair_hash(pair_with(_deep=other))
        # whether one object or two alike are held is no matter
        alike = {"_both": [Config(1), Config(1)]}
        config = Config(1)
        assert attributes(pair_with(_both=[config, config])) == attributes(pair_with(**alike))

    def test_the_number_of_objects_has_a_bound(self):
        many = [Config(i) for i in range(MOST)]
        before = pair_hash(pair_with(_many=many))
        many[-1] = Config(-1)
        assert pair_hash(pair_with(_many=many)) == before  # not seen, as documented
        many[0] = Config(-1)
        assert pair_hash(pair_with(_many=many)) != before
        assert pair_hash(pair_with(_many=many[:-1])) != pair_hash(pair_with(_many=many))

    def test_a_librarys_object_is_its_class(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"x": np.arange(3.0)})
        pair = pair_with()
        without = pair_hash(pair)
        pair.likelihood.family.frame = frame
        before = pair_hash(pair)
        assert before != without
        _ = frame["x"]  # kept on the frame
        assert pair_hash(pair) == before
        frame.loc[0, "x"] = 7.0
        assert pair_hash(pair) == before  # not seen, as documented

    def test_a_users_own_object_counts_with_all_that_it_keeps(self):
        pair = pair_with(_counter=SimpleNamespace(count=0))
        before = pair_hash(pair)
        pair.likelihood.family._counter.count += 1
        assert pair_hash(pair) != before

    def test_large_data_are_read_a_few_times(self, monkeypatch):
        x = torch.zeros(2, 3)
        pair = pair_with(table=torch.zeros(1000, 100), _rows=[{"i": i} for i in range(20_000)])
        asked = []
        in_numbers, many = pyrovae.models.fingerprint._in_numbers, pyrovae.models.describing._of_many
        monkeypatch.setattr(
            pyrovae.models.fingerprint, "_in_numbers", lambda value: asked.append("table") or in_numbers(value)
        )
        monkeypatch.setattr(pyrovae.models.describing, "_of_many", lambda value: asked.append("rows") or many(value))
        pyrovae.elbo(pair, x)
        assert asked == ["table", "rows"]  # for the hash alone, which is taken once


class TestEveryProcess:
    @pytest.mark.parametrize("folder", HASHES)
    def test_our_own_pairs_have_the_hashes_of_before(self, folder):
        assert pair_hash(pyrovae.load(STATES / folder))[:16] == HASHES[folder]

    def test_a_pair_by_hand_without_settings_has_too(self):
        class Factor(nn.Module):  # the README's, of five entries
            event_shape, latent_dim, is_normalized = (5,), 1, True
            model = guide = staticmethod(print)

            def __init__(self):
                super().__init__()
                self.loadings, self.encoder = nn.Parameter(torch.ones(5)), nn.Linear(5, 1)

        pair = Factor()
        nn.init.constant_(pair.encoder.weight, 0.25)
        nn.init.zeros_(pair.encoder.bias)
        assert pair_hash(pair)[:16] == "bcb3c767ef332fe7"

    @pytest.mark.slow
    def test_another_process_gives_the_same(self):
        here = Path(__file__)
        code = (
            f"import sys; sys.path.insert(0, {str(here.parent)!r})\n"
            "import test_fingerprint as t\n"
            "print(*(t.pair_hash(t.pair_with(**kept(1))) for kept in t.KEPT.values()))"
        )
        printed = []
        for seed in ("1", "2"):  # of Python's own hashes, which order sets
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            printed.append(done.stdout.split())
        assert printed[0] == printed[1] == [pair_hash(pair_with(**kept(1))) for kept in KEPT.values()]

"""The methods of `fit` as objects: the same fits as by keywords, and every option told whose it is."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import methods
from pyrovae.inference import method as table
from pyrovae.inference import training

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
PUBLIC = (methods.SVI, methods.EM, methods.LBFGS, methods.NUTS, methods.ClosedForm)
QUIET = {"progress": False, "device": "cpu"}


def mlp():
    return pyrovae.mlp_vae((3,), likelihood="normal", hidden_dims=(2,))


def linear():
    torch.manual_seed(0)
    return pyrovae.linear_vae(3, 1)


def mixture():
    torch.manual_seed(0)
    return pyrovae.GaussianMixture((3,), 2)


def posterior():
    torch.manual_seed(0)
    return pyrovae.BayesianGaussianMixture((3,), 2)


def softmax():
    torch.manual_seed(0)
    return pyrovae.DiscriminativeClassifier((3,), 2)


CASES = {
    "SVI": (linear, (X,), methods.SVI(epochs=2, batch_size=16, beta=2.0), {"epochs": 2, "batch_size": 16, "beta": 2.0}),
    "EM": (mixture, (X,), methods.EM(num_restarts=2, tol=1e-4), {"num_restarts": 2, "tol": 1e-4}),
    "a mixture by SVI": (mixture, (X,), methods.SVI(epochs=2), {"epochs": 2, "method": "svi"}),
    "L-BFGS": (softmax, (X, Y), methods.LBFGS(max_iterations=7), {"max_iterations": 7}),
    "NUTS": (
        posterior,
        (X,),
        methods.NUTS(num_chains=1, num_draws=3, num_warmup=3),
        {"method": "nuts", "num_chains": 1, "num_draws": 3, "num_warmup": 3},
    ),
    "closed form": (lambda: pyrovae.gaussian_classifier((3,), 2), (X, Y), methods.ClosedForm(), {}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_method_with_its_options_is_the_fit_by_keywords(case):
    make, items, method, keywords = CASES[case]
    one, other = make(), make()
    first = pyrovae.fit(one, *items, method=method, **QUIET)
    second = pyrovae.fit(other, *items, **keywords, **QUIET)
    assert [t.tolist() for t in one.state_dict().values()] == [t.tolist() for t in other.state_dict().values()]
    assert np.array_equal(first.epochs.loss, second.epochs.loss)
    configs = [{k: repr(v) for k, v in h.config.items() if k != "seconds"} for h in (first, second)]
    assert configs[0] == configs[1]


def test_the_signature_and_the_docstring_of_fit_have_every_option():
    parameters = inspect.signature(pyrovae.fit).parameters
    for kind in PUBLIC:
        for field in dataclasses.fields(kind):
            assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters[field.name].default in (field.default, None)
            assert field.name in pyrovae.fit.__doc__, field.name
            assert f"{field.name}" in kind.__doc__, (kind, field.name)
    every = {field.name for kind in PUBLIC for field in dataclasses.fields(kind)}
    assert "options" not in parameters and every <= parameters.keys()


def test_all_items_make_one_batch_where_all_are_asked_for():
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    sizes = {256: 256, None: 256, "all": 300}  # None is an option left out
    for given, expected in sizes.items():
        one, other = linear(), linear()
        assert pyrovae.fit(one, x, epochs=1, batch_size=given, **QUIET).config["batch_size"] == expected
        pyrovae.fit(other, x, epochs=1, batch_size=expected, **QUIET)
        assert [t.tolist() for t in one.state_dict().values()] == [t.tolist() for t in other.state_dict().values()]
    method = methods.SVI(epochs=1, batch_size="all")
    assert pyrovae.fit(linear(), x, method=method, **QUIET).config["batch_size"] == 300
    assert pyrovae.fit(posterior(), x, epochs=1, **QUIET).config["batch_size"] == 300


class TestOptionsThatDoNotFit:
    def test_a_misspelt_one_is_named_with_the_nearest(self):
        with pytest.raises(TypeError, match=r"no method has an option 'epoch' \(did you mean 'epochs'\?\)"):
            pyrovae.fit(linear(), X, epoch=3)
        with pytest.raises(TypeError, match=r"no method has an option 'num_restart'; this fit is by SVI"):
            pyrovae.fit(linear(), X, num_restart=3)  # another method's is not proposed
        with pytest.raises(TypeError, match="this fit is by EM, whose are: tol, max_iterations, num_restarts"):
            pyrovae.fit(mixture(), X, restarts=3)

    @pytest.mark.parametrize(
        ("make", "options", "message"),
        [
            (mixture, {"epochs": 3}, "epochs is an argument of SVI, and this fit is by EM"),
            (linear, {"num_draws": 3}, "num_draws is an argument of NUTS, and this fit is by SVI"),
            (linear, {"tol": 1e-3}, "tol is an argument of EM, and this fit is by SVI"),
            (mlp, {"tol": 1e-3}, "tol is an argument of closed form or EM or L-BFGS, and this fit is by SVI"),
            (mixture, {"method": methods.EM(), "beta": 2.0}, "beta is an argument of SVI, and this fit is by EM"),
        ],
    )
    def test_another_methods_is_told_whose_it_is(self, make, options, message):
        pair = make()
        before = [t.clone() for t in pair.state_dict().values()]
        with pytest.raises(ValueError, match=message):
            pyrovae.fit(pair, X, **options)
        assert all(torch.equal(a, b) for a, b in zip(before, pair.state_dict().values(), strict=True))

    @pytest.mark.parametrize(
        ("make", "labels", "method", "message"),
        [
            (
                linear,
                (),
                methods.EM(),
                r"method=EM\(\.\.\.\) is for a GaussianMixture or a ColumnMixture, and this is a VAE: take 'svi'",
            ),
            (linear, (), methods.LBFGS(), "is for a DiscriminativeClassifier, and this is a VAE"),
            (mixture, (), methods.NUTS(), "is for a BayesianGaussianMixture, and this is a GaussianMixture: take 'em'"),
            (softmax, (Y,), methods.ClosedForm(), "is for a GenerativeClassifier, and this is a Discriminative"),
            (lambda: pyrovae.gaussian_classifier((3,), 2), (Y,), methods.SVI(), "leave method out"),
            (linear, (), methods.SVI, r"a method is an object that holds its options: give SVI\(\), not the class"),
            (linear, (), 3, "a method must be a pyrovae.methods.Method, got 3"),
        ],
    )
    def test_a_method_of_other_pairs_is_refused_as_an_object_too(self, make, labels, method, message):
        with pytest.raises((ValueError, TypeError), match=message):
            pyrovae.fit(make(), X, *labels, method=method)

    def test_none_and_a_default_are_options_left_out(self):
        pyrovae.fit(mixture(), X, epochs=None, beta=1.0, compile="auto", num_restarts=1, **QUIET)

    def test_none_means_nothing_where_it_is_not_the_default(self):
        """Else `fit(..., option=None)`, which leaves the option out, would be another fit than the method with it."""
        for method in [kind() for kind in PUBLIC] + list(methods.methods_of(posterior()).values()):
            for name, default in table.options_of(method).items():
                if default is not None:
                    with pytest.raises((TypeError, ValueError), match=name):
                        dataclasses.replace(method, **{name: None})

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            (methods.SVI, {"epochs": 0}),
            (methods.SVI, {"batch_size": "most"}),
            (methods.SVI, {"schedule": "cosin"}),
            (methods.SVI, {"objective": "iwae", "beta": 2.0}),
            (methods.EM, {"tol": -1.0}),
            (methods.LBFGS, {"max_iterations": 0}),
            (methods.NUTS, {"num_chains": 0}),
            (methods.ClosedForm, {"tol": -1.0}),
        ],
    )
    def test_a_value_out_of_range_is_refused_when_the_method_is_made(self, kind, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            kind(**options)


class Mean(nn.Module):
    """A pair on Pyro alone: items about one parameter."""

    event_shape, latent_dim, is_normalized = (3,), 0, True

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("obs", dist.Normal(self.loc, 1.0).to_event(1), obs=x)

    def guide(self, x=None, *, size=1):
        pass


@dataclass(frozen=True)
class Average(methods.Method):
    """The maximum of the likelihood of `Mean`, pulled to zero by `prior_items` items."""

    name: ClassVar[str] = "average"
    title: ClassVar[str] = "the average"

    prior_items: float = 0.0

    def run(self, task):
        with torch.no_grad():
            task.pair.loc.copy_(task.x.sum(0) / (len(task.x) + self.prior_items))
        return pyrovae.History.from_rows([{"loss": 0.0}], {"method": self.name})


@pytest.fixture
def open_table(monkeypatch):
    monkeypatch.setattr(table, "_TABLE", dict(table._TABLE))


class TestAMethodOfOnesOwn:
    def test_it_is_given_as_an_object(self):
        pair = Mean()
        history = pyrovae.fit(pair, X, method=Average(), prior_items=2.0)
        assert history.config["method"] == "average"
        torch.testing.assert_close(pair.loc.detach(), X.sum(0) / 42)
        with pytest.raises(ValueError, match="epochs is an argument of SVI, and this fit is by the average"):
            pyrovae.fit(pair, X, method=Average(), epochs=3)

    def test_it_is_registered_and_a_subclass_has_it(self, open_table):
        class Other(Mean):
            pass

        methods.register_methods(Mean, Average(prior_items=1.0), methods.SVI(epochs=2))
        assert list(methods.methods_of(Other())) == ["average", "svi"]
        pair = Other()
        pyrovae.fit(pair, X)
        torch.testing.assert_close(pair.loc.detach(), X.sum(0) / 41)
        assert pyrovae.fit(pair, X, method="svi", **QUIET).config["epochs"] == 2  # the pair's own default
        with pytest.raises(ValueError, match="prior_items is an argument of the average, and this fit is by SVI"):
            pyrovae.fit(linear(), X, prior_items=3.0)
        with pytest.raises(ValueError, match="method must be one of 'svi', got 'average'"):
            pyrovae.fit(mlp(), X, method="average")

    def test_what_it_lacks_is_named_when_it_is_registered_or_given(self, open_table):
        class Bare(methods.Method):
            name = "bare"

        @dataclass(frozen=True)
        class Nameless(methods.Method):
            pass

        @dataclass(frozen=True)
        class Silent(methods.Method):
            name = "silent"

            def run(self, task):
                return None

        refused = {
            r"Bare must be a dataclass: put @dataclass\(frozen=True\) above it": (Mean, Bare()),
            "Nameless must have a name": (Mean, Nameless()),
            r"give Average\(\), not the class": (Mean, Average),
            "kind must be the class of the pairs, got 'Mean'": ("Mean", Average()),
            "give at least one method of Mean": (Mean,),
        }
        for message, arguments in refused.items():
            with pytest.raises((TypeError, ValueError), match=message):
                methods.register(*arguments)
        assert methods.methods_of(Mean()) == {"svi": methods.SVI()}
        with pytest.raises(TypeError, match="Bare must be a dataclass"):
            pyrovae.fit(Mean(), X, method=Bare())
        with pytest.raises(TypeError, match=r"Silent\.run must return a History"):
            pyrovae.fit(Mean(), X, method=Silent())
        assert Silent.title == "silent"

    def test_two_of_one_name_are_refused(self, open_table):
        @dataclass(frozen=True)
        class Mine(methods.SVI):
            extra: int = 1

        @dataclass(frozen=True)
        class Named(methods.SVI):
            name: ClassVar[str] = "named"

        twice = r"two methods of Mean are called 'svi' \(SVI and {}\): leave one out, or give a subclass a name"
        with pytest.raises(ValueError, match=twice.format("SVI")):
            methods.register(Mean, methods.SVI(epochs=2), methods.SVI(epochs=7))
        with pytest.raises(ValueError, match=twice.format("Mine")):
            methods.register(Mean, methods.SVI(), Mine())
        assert methods.methods_of(Mean()) == {"svi": methods.SVI()}
        methods.register(Mean, methods.SVI(), order=lambda pair: [methods.SVI(), Mine()])
        with pytest.raises(ValueError, match=twice.format("Mine")):
            pyrovae.fit(Mean(), X)
        methods.register(Mean, methods.SVI(epochs=2), Named(epochs=3))
        assert pyrovae.fit(Mean(), X, **QUIET).epochs.sizes["epoch"] == 2
        assert pyrovae.fit(Mean(), X, method="named", **QUIET).epochs.sizes["epoch"] == 3
        with pytest.raises(ValueError, match=r"tol is an argument of .*EM or .*, and this fit is by named: leave it"):
            pyrovae.fit(Mean(), X, method="named", tol=1.0)
        methods.register(Mean, Mine(epochs=4))  # alone it stands for SVI
        assert pyrovae.fit(Mean(), X, method="svi", **QUIET).epochs.sizes["epoch"] == 4

    @pytest.mark.parametrize("protocol", [pyrovae.Pair, pyrovae.LatentPair, pyrovae.Density])
    def test_a_protocol_is_no_class_of_pairs(self, open_table, protocol):
        message = f"kind must be the class of the pairs, and {protocol.__name__} is a protocol"
        with pytest.raises(TypeError, match=message):
            methods.register(protocol, methods.SVI(epochs=1))

        class Explicit(Mean, pyrovae.Pair):
            pass

        methods.register(Explicit, methods.SVI(epochs=1))
        assert pyrovae.fit(Explicit(), X, **QUIET).epochs.sizes["epoch"] == 1

    def test_an_option_may_be_an_array(self, open_table):
        @dataclass(frozen=True, eq=False)
        class Weighted(methods.Method):
            name: ClassVar[str] = "weighted"
            weights: object = dataclasses.field(default_factory=lambda: torch.ones(3))
            counts: object = dataclasses.field(default_factory=lambda: np.ones(3))
            seed: int = 0  # as an argument of fit is called

            def run(self, task):
                return pyrovae.History.from_rows([{"loss": float(self.weights.sum())}], {})

        methods.register(Mean, methods.SVI(), Weighted())
        given = {"weights": (torch.ones(3), torch.zeros(3)), "counts": (np.ones(3), np.zeros(3))}
        for name, (default, other) in given.items():
            pyrovae.fit(Mean(), X, epochs=1, **{name: default}, **QUIET)  # which changes nothing
            for value in (other, other[:2], other[0], [0.0]):
                with pytest.raises(ValueError, match=f"{name} is an argument of weighted, and this fit is by SVI"):
                    pyrovae.fit(Mean(), X, **{name: value})
        history = pyrovae.fit(Mean(), X, method="weighted", weights=torch.full((3,), 2.0))
        assert float(history.epochs.loss[0]) == 6.0
        parameters = training._signature().parameters  # of a process that registers it before it asks for fit
        assert parameters["weights"].default.tolist() == [1.0] * 3
        assert parameters["seed"] == inspect.signature(pyrovae.fit).parameters["seed"]

    def test_a_pair_that_says_nothing_has_svi(self):
        assert methods.methods_of(Mean()) == {"svi": methods.SVI()}
        pair = Mean()
        pyrovae.fit(pair, X, epochs=200, learning_rate=0.02, batch_size=None, **QUIET)
        torch.testing.assert_close(pair.loc.detach(), X.mean(0), atol=2e-2, rtol=0)


def test_the_methods_of_every_pair_are_stated_where_methods_are_imported():
    """In a process that has not called `fit` yet too, as that of `pyrovae fit` is when it asks which method it is."""
    folder = Path(pyrovae.__file__).parent
    files = [
        file for file in folder.rglob("*.py") if re.search(r"(?m)^register_methods\(", file.read_text(encoding="utf-8"))
    ]
    stating = {".".join(file.relative_to(folder.parent).with_suffix("").parts) for file in files}
    assert len(stating) > 5
    imported = set()
    for statement in ast.parse(Path(methods.__file__).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom):
            imported |= {statement.module, *(f"{statement.module}.{each.name}" for each in statement.names)}
    assert stating <= imported


@dataclass(frozen=True)
class Slow(methods.Method):
    """What takes 0.05 s before its only step, which takes none."""

    name: ClassVar[str] = "slow"
    config: object = None

    def run(self, task):
        time.sleep(0.05)
        return pyrovae.History.from_rows([{"loss": 1.0, "seconds": 0.0}] * 3, {**(self.config or {})})


class TestSeconds:
    def test_those_of_the_whole_call_are_told_and_not_those_of_the_steps_alone(self):
        began = time.perf_counter()
        history = pyrovae.fit(Mean(), X, method=Slow())
        assert 0.05 <= history.seconds <= time.perf_counter() - began
        assert str(history).endswith(f"{history.seconds:.1f} s")
        assert (
            f"{history.seconds:.1f} s on"
            in pyrovae.History(history.epochs, {**history.config, "device": "cpu"})._repr_html_()
        )

    def test_all_starts_of_em_count(self):
        began = time.perf_counter()
        history = pyrovae.fit(mixture(), X, num_restarts=3, **QUIET)
        assert float(history.epochs.seconds.sum()) < history.seconds <= time.perf_counter() - began

    def test_a_resumed_run_has_the_steps_before_it_too(self):
        rows = [{"loss": 1.0, "seconds": seconds} for seconds in (10.0, 20.0, 1.0)]
        assert pyrovae.History.from_rows(rows, {"seconds": 4.0, "resumed_after": 1}).seconds == 34.0
        assert pyrovae.History.from_rows(rows, {"seconds": 4.0, "resumed_after": None}).seconds == 4.0

    def test_steps_are_called_steps_where_no_call_was_timed(self):
        history = pyrovae.History.from_rows([{"loss": 1.0, "seconds": 2.0}], {})
        assert history.seconds is None
        assert str(history).endswith(", 2.0 s of steps")


class TestMisspeltKeywords:
    COLUMNS = (pyrovae.Column("a", "real"),)

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (
                lambda: pyrovae.GaussianMixture((2,), n_components=2),
                "GaussianMixture has no argument 'n_components'; did you mean 'num_components'",
            ),
            (lambda: pyrovae.GaussianMixture((2,), 2, reg_covar=1e-3), "did you mean 'floor'"),
            (
                lambda: pyrovae.ColumnMixture(TestMisspeltKeywords.COLUMNS, n_components=2),
                "did you mean 'num_components'",
            ),
            (lambda: pyrovae.table_vae(TestMisspeltKeywords.COLUMNS, latent_dims=2), "did you mean 'latent_dim'"),
            (lambda: pyrovae.mlp_vae((2,), hidden=3), "mlp_vae has no argument 'hidden'; did you mean 'hidden_dims'"),
            (lambda: pyrovae.fit(pyrovae.linear_vae(2, 1), torch.zeros(3, 2), weights=1), "did you mean 'weight'"),
            (lambda: pyrovae.fit(pyrovae.linear_vae(2, 1), torch.zeros(3, 2), lr=1), "did you mean 'learning_rate'"),
            (
                lambda: pyrovae.iwae(pyrovae.linear_vae(2, 1), torch.zeros(3, 2), weights=1),
                "iwae has no argument 'weights'; did you mean 'weight'",
            ),
            (lambda: pyrovae.exact(pyrovae.linear_vae(2, 1), torch.zeros(3, 2), qqq=1), "it takes pair, x, "),
        ],
    )
    def test_the_nearest_is_named(self, call, words):
        with pytest.raises(TypeError, match=re.escape(words)):
            call()

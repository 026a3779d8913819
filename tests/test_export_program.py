"""A program of torch computes what the pair does, in a process without this package."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import export_program

WITHOUT_US = """
import sys
sys.modules["pyrovae"] = None  # an import of it fails
sys.modules["pyro"] = None
import torch
for what in ("encode", "decode", "encode-given", "decode-given"):
    run = torch.export.load(f"{what}.pt2").module()
    for *given, wanted in torch.load(f"{what}.pt"):
        assert run(*given).shape == wanted.shape
        assert float((run(*given) - wanted).abs().max()) < 1e-5
try:
    import pyrovae
except ImportError:
    print("without")
"""


def pair(**options):
    torch.manual_seed(0)
    return pyrovae.mlp_vae((5,), 2, **{"hidden_dims": (6,)} | options)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "poisson", None])  # None: of a class
def test_it_gives_what_the_pair_gives_for_batches_of_any_size(likelihood):
    one_class = pyrovae.SemiSupervisedVAE((5,), 3, 2, hidden_dims=(6,)).of_class(1)
    vae = one_class if likelihood is None else pair(likelihood=likelihood)
    for what, size in (("encode", 5), ("decode", 2)):
        run = export_program(vae, what).module()
        for count in (1, 3, 50):
            given = torch.rand(count, size)
            assert torch.allclose(run(given), getattr(vae, what)(given), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_a_pair_given_covariates_is_a_function_of_two_arguments(posterior):
    vae = pair(covariate_dim=3, posterior=posterior, prior="conditional", likelihood="poisson")
    for what, name, size in (("encode", "x", 5), ("decode", "z", 2)):
        program = export_program(vae, what)
        assert program.graph_signature.user_inputs == (name, "covariates")
        for count in (1, 3, 50):
            given, c = torch.rand(count, size).round(), torch.randn(count, 3)
            found, wanted = program.module()(given, c), getattr(vae, what)(given, covariates=c)
            assert torch.allclose(found, wanted, atol=1e-5)
            assert not torch.allclose(found, getattr(vae, what)(given, covariates=c + 1), atol=1e-5)  # a control
        with pytest.raises(AssertionError, match="covariates"):
            program.module()(torch.zeros(4, size), torch.zeros(3, 3))


@pytest.mark.slow
def test_covariates_that_one_part_alone_takes_are_an_argument_of_both_programs():
    vae = pyrovae.VAE(pyrovae.StandardNormal(2), pair(covariate_dim=3).likelihood, pyrovae.LinearNormal(5, 2))
    x, c = torch.rand(4, 5), torch.randn(4, 3)
    encode = export_program(vae, "encode").module()
    assert torch.allclose(encode(x, c), vae.encode(x, covariates=c), atol=1e-5)


@pytest.mark.slow
def test_it_holds_copies_of_the_weights_and_leaves_the_pair_as_it_was():
    vae = pair().train()
    program = export_program(vae, "decode")
    z = torch.randn(4, 2)
    before = vae.decode(z)
    assert vae.training and len(list(vae.parameters())) == 10 and torch.equal(program.module()(z), before)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(1.0)
    assert torch.equal(program.module()(z), before) and not torch.equal(vae.decode(z), before)


def test_what_cannot_be_exported_is_named():
    with pytest.raises(ValueError, match="what must be one of"):
        export_program(pair(), "sample")
    with pytest.raises(TypeError, match="takes a pair of prior, likelihood and posterior"):
        export_program(pyrovae.GaussianMixture((2,), 2), "encode")


@pytest.mark.slow
def test_a_network_that_reads_values_is_refused_with_torchs_reason():
    class Reading(nn.Linear):
        def forward(self, z):
            return super().forward(z) if float(z.detach().sum()) > 1e9 else super().forward(z + 1)

    likelihood = pyrovae.Likelihood(Reading(2, 5), pyrovae.Bernoulli(), (5,))
    vae = pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, pyrovae.LinearNormal(5, 2))
    with pytest.raises(ValueError, match="torch cannot export decode of this VAE"):
        export_program(vae, "decode")


@pytest.mark.slow
def test_a_process_without_this_package_runs_it(tmp_path):
    images = {"channels": (4, 8), "strides": (1, 2)}
    for ending, dim, vae in (
        ("", 0, pyrovae.conv_vae((1, 8, 8), **images)),
        ("-given", 3, pyrovae.conv_vae((1, 8, 8), **images, covariate_dim=3)),
    ):
        for what, shape in (("encode", (1, 8, 8)), ("decode", (2,))):
            torch.export.save(export_program(vae, what), tmp_path / f"{what}{ending}.pt2")
            cases = []
            for count in (1, 7):
                given = torch.rand(count, *shape)
                beside = {"covariates": torch.randn(count, dim)} if dim else {}
                cases.append((given, *beside.values(), getattr(vae, what)(given, **beside).detach()))
            torch.save(cases, tmp_path / f"{what}{ending}.pt")
    done = subprocess.run([sys.executable, "-c", WITHOUT_US], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "without", done.stderr

"""A decoder written down for the page gives what torch gives, with weights in float16; what it cannot do is refused."""

from __future__ import annotations

import json
import math
import shutil
import subprocess

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae.report.assets import asset
from pyrovae.report.explorer import SCRIPTS
from pyrovae.report.network import Program, Untranslatable, translated
from pyrovae.report.network.operations.elementwise import FUNCTIONS, TWO
from pyrovae.report.network.packing import as_text, halved

LIKE = torch.zeros(())


class Wires(nn.Module):
    """A module of its own: parts that are split, joined and added."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(10, 6)

    def forward(self, z):
        h = self.one(z).relu_()
        h = h + torch.tanh(self.two(h)) * 0.5
        left, right = h.chunk(2, dim=-1)
        joined = torch.cat([right.square(), z.exp(), left - 1], -1)
        return torch.where(joined > 0.2, joined, joined.clamp(-0.5, 0.1)) @ self.three.weight.T


NETWORKS = {
    "mlp": lambda: pyrovae.mlp_vae((1, 4, 4), hidden_dims=(16, 8)).likelihood.network,
    "activations": lambda: nn.Sequential(
        nn.Linear(2, 12), nn.Softplus(), nn.LeakyReLU(0.3), nn.ELU(), nn.SELU(), nn.CELU(), nn.SiLU(), nn.GELU(),
        nn.GELU(approximate="tanh"), nn.Mish(), nn.Hardtanh(-2, 2), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(),
        nn.Softsign(), nn.Tanh(), nn.LogSigmoid(), nn.PReLU(), nn.Linear(12, 5), nn.LogSoftmax(-1),
    ),
    "conv": lambda: pyrovae.conv_vae((3, 9, 7), channels=(4, 6), strides=(2, 1)).likelihood.network,
    "transposed": lambda: nn.Sequential(
        nn.Linear(2, 32), nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 4, (3, 2), stride=(2, 3), padding=(1, 0),
        output_padding=(1, 2), dilation=(2, 1), groups=2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 4, 2, 1, bias=False),
    ),
    "convolution": lambda: nn.Sequential(
        nn.Linear(2, 162), nn.Unflatten(1, (2, 9, 9)), nn.Conv2d(2, 2, 2, padding="valid"),
        nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2, groups=2),
        nn.Upsample(scale_factor=2), nn.Conv2d(4, 8, (1, 3), padding=(0, 1)), nn.PixelShuffle(2),
        nn.ZeroPad2d((1, 0, 2, 1)), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(size=(9, 11), mode="bilinear", align_corners=True),
    ),
    "one axis": lambda: nn.Sequential(
        nn.Linear(2, 12), nn.Unflatten(1, (3, 4)), nn.ConvTranspose1d(3, 4, 3, stride=2), nn.Softmax(1),
        nn.Conv1d(4, 4, 3), nn.Conv1d(4, 2, 2, padding="valid"),
    ),
    "normalisation": lambda: nn.Sequential(
        nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Unflatten(1, (4, 2, 2)), nn.BatchNorm2d(4), nn.GroupNorm(2, 4),
        nn.Flatten(), nn.Dropout(), nn.LayerNorm(16),
    ),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 5)),
    "wires": Wires,
}  # fmt: skip


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    made = NETWORKS[name]()
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def codes() -> torch.Tensor:
    return 2 * torch.randn(50, 2, generator=torch.Generator().manual_seed(1))


def with_half_weights(module: nn.Module) -> nn.Module:
    """The weights of linear layers and convolutions as the page has them."""
    for part in module.modules():
        if isinstance(getattr(part, "weight", None), nn.Parameter) and part.weight.ndim > 1:
            half, scale = halved(part.weight.detach().numpy())
            part.weight.data.copy_(torch.from_numpy(half.astype(np.float64) * scale))
    return module


@pytest.fixture(autouse=True)
def _in_float32(float32):
    yield


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_is_the_network_with_weights_in_float16(name):
    module = network(name)
    program = translated(module, 2, LIKE)
    with torch.no_grad():
        exact = module(codes()).flatten(1).numpy()
        halves = exact if name == "weight norm" else with_half_weights(module)(codes()).flatten(1).numpy()
    result = program.run(codes().numpy())
    size = np.abs(exact).max()
    assert np.abs(result - exact).max() < 5e-3 * size
    if name != "weight norm":
        np.testing.assert_allclose(result, halves, atol=3e-6 * size)
        assert np.abs(halves - exact).max() > 1e-5 * size  # the control: without them it is another function


def test_a_program_is_plain_data():
    program = translated(network("conv"), 2, LIKE)
    again = Program(json.loads(json.dumps(program.text)))
    np.testing.assert_array_equal(again.run(codes().numpy()), program.run(codes().numpy()))


def test_weights_of_any_size_keep_eleven_bits():
    rng = np.random.default_rng(0)
    for size in (1e-12, 1.0, 3e5, 1e20):
        weights = rng.standard_normal(1000) * size
        half, scale = halved(weights)
        assert np.isfinite(half).all()
        np.testing.assert_allclose(half.astype(float) * scale, weights, rtol=2**-11, atol=2**-38 * size)
    assert halved(np.zeros(3))[1] == 1.0


class Limits(nn.Module):
    """Limits that are infinite, as those of a layer that is switched off."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(2, 6)

    def forward(self, z):
        h = nn.functional.softplus(self.one(z), threshold=math.inf)
        return h.clamp(min=-math.inf, max=0.7)


def test_limits_that_are_infinite_are_on_the_page():
    module = with_half_weights(Limits())
    program = translated(module, 2, LIKE)
    text = json.dumps(program.text, allow_nan=False)  # JSON has no infinity
    with torch.no_grad():
        wanted = module(codes()).numpy()
    assert (wanted == np.float32(0.7)).any() and (wanted < 0.7).any()
    np.testing.assert_allclose(program.run(codes().numpy()), wanted, atol=3e-6)
    np.testing.assert_allclose(in_node(json.loads(text), codes().tolist())["values"], wanted, atol=3e-6)


class AcrossCodes(nn.Module):
    def forward(self, z):
        return z - z.mean(0)


class Sorted(nn.Module):
    def forward(self, z):
        return z.sort(-1).values


@pytest.mark.parametrize(
    "module",
    [AcrossCodes(), Sorted(), nn.Unflatten(0, (1, -1)), nn.Sequential(nn.Unflatten(1, (2, 1)), nn.MaxPool1d(1))],
)
def test_what_the_page_cannot_do_is_refused(module):
    with pytest.raises(Untranslatable):
        translated(module, 2, LIKE)


class Counts(nn.Module):
    """A user's own family: two parameters an entry, with a mean of its own."""

    support, num_parameters = dist.constraints.nonnegative_integer, 2

    def forward(self, log_rate, gate):
        return dist.ZeroInflatedPoisson(rate=log_rate.exp(), gate_logits=gate)


@pytest.mark.parametrize("family", ["bernoulli", "continuous_bernoulli", "normal", Counts()])
def test_the_likelihoods_mean_is_part_of_it(family):
    torch.manual_seed(0)
    pair = pyrovae.mlp_vae((6,), hidden_dims=(8,), likelihood=family)
    program = translated(pair.decode, 2, LIKE)
    exact = pair.decode(codes()).detach().numpy()
    np.testing.assert_allclose(program.run(codes().numpy()), exact, atol=2e-3 * np.abs(exact).max())
    # the control: the network's own output is no mean
    if family != "normal":
        assert program.text["steps"][-1]["do"] == "map"


NODE = """
const { readFileSync } = require("node:fs");
const [source, program, codes] = JSON.parse(readFileSync(0, "utf8"));
const { NetworkDecoder, normalCdf, normalQuantile, fromHalf } = new Function(
  source + "; return { NetworkDecoder, normalCdf, normalQuantile, fromHalf };",
)();
const result = {};
if (program) {
  const decoder = new NetworkDecoder(program, codes[0].length);
  result.values = codes.map((code) => Array.from(decoder.decode(code)));
} else {
  const halves = Array.from({ length: 65536 }, (_, bits) => fromHalf(bits));
  result.halves = halves.map((x) => (Number.isFinite(x) ? x : String(x)));
  result.cdf = codes.map(normalCdf);
  result.quantile = codes.map((x) => normalQuantile(normalCdf(x)));
}
console.log(JSON.stringify(result));
"""


def in_node(program: dict | None, numbers: list) -> dict:
    """What the page's JavaScript gives, without a browser."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on the path: the page's arithmetic is run in a browser alone")
    source = "\n".join(map(asset, SCRIPTS[:4]))
    done = subprocess.run(
        [node, "-e", NODE],
        input=json.dumps([source, program, numbers]),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pages_arithmetic_is_numpys(name):
    program = translated(network(name), 2, LIKE)
    wanted = program.run(codes().numpy())
    values = np.array(in_node(program.text, codes().tolist())["values"])
    np.testing.assert_allclose(values, wanted, atol=3e-6 * np.abs(wanted).max())


def test_every_function_of_entries_is_the_pages():
    rng = np.random.default_rng(0)
    x = rng.uniform(-4, 4, (5, 30)).astype(np.float32)
    x[:, :5] = [0.0, 0.5, 2.5, 3.5, 1.0]
    numbers = {"softplus": [2.0, 1.5], "leaky_relu": [0.3], "elu": [1.5, 1.1, 0.7], "clamp": [-1.0, 1.0]}
    numbers |= {name: [2.0] for name in ("add", "sub", "rsub")}
    arrays = dict.fromkeys((*TWO, "add", "sub", "rsub", "div", "prelu"), 2) | {"where": 3, "affine": 3}
    other = np.linspace(0.5, 2.5, 30).astype(np.float32)
    constants = [{"shape": [30], "type": "f4", "scale": 1.0, "data": as_text(c, "f4")} for c in (other, other + 1)]
    of_positive = {"log", "log1p", "sqrt", "rsqrt", "reciprocal", "pow"}
    for names, code in ((of_positive, np.abs(x) + 0.01), (FUNCTIONS.keys() - of_positive, x)):
        steps = [
            {
                "do": "map",
                "of": [0, -1, -2][: arrays.get(name, 1)],
                "with": {"f": name, "numbers": numbers.get(name, [])},
                "shape": [30],
            }
            for name in sorted(names)
        ]
        joined = {"do": "concatenate", "of": [k + 1 for k in range(len(steps))], "with": {}, "shape": [30 * len(steps)]}
        program = Program({"steps": [*steps, joined], "constants": constants})
        values = np.array(in_node(program.text, code.tolist())["values"])
        wanted = program.run(code).reshape(5, -1, 30)
        for i, name in enumerate(sorted(names)):
            given = values.reshape(5, -1, 30)[:, i]
            np.testing.assert_allclose(given, wanted[:, i], rtol=3e-6, atol=1e-6, err_msg=name)


def test_float16_and_the_normal_distribution_by_hand():
    from scipy.special import ndtr

    x = np.linspace(-8, 5, 200)
    result = in_node(None, x.tolist())
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(float)
    given = np.array([float(str(v).replace("Infinity", "inf")) for v in result["halves"]])
    np.testing.assert_array_equal(given, halves)
    np.testing.assert_allclose(result["cdf"], ndtr(x), rtol=1e-10)
    np.testing.assert_allclose(result["quantile"], x, atol=1e-7)

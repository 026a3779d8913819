"""Networks: shapes for every size, and the convolutions against the arithmetic written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pyrovae
from pyrovae.models.distributions import Likelihood
from pyrovae.models.networks import MLP, ConvDecoder, ConvEncoder


@settings(max_examples=25, deadline=None)
@given(
    colours=st.integers(1, 3),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    strides=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_any_image_comes_back_in_its_own_shape(colours, height, width, strides):
    encoder = ConvEncoder((colours, height, width), channels=[4] * len(strides), strides=strides)
    decoder = ConvDecoder(encoder, 2)
    features = encoder(torch.zeros(2, colours, height, width))
    assert features.shape == (2, encoder.features)
    assert decoder(torch.zeros(2, 2)).shape == (2, colours, height, width)


def test_the_seeds_network_has_its_published_sizes():
    # book chapter 3: 28 -> 28 -> 14 -> 7 -> 7 pixels, 3,136 features, filters 64, 64, 32, 1 on the way back
    encoder = ConvEncoder((1, 28, 28))
    decoder = ConvDecoder(encoder, 2)
    assert encoder.sizes == [(28, 28), (28, 28), (14, 14), (7, 7), (7, 7)]
    assert encoder.features == 3136
    up = [m for m in decoder.layers if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in up] == [64, 64, 32, 1]
    assert [m.stride[0] for m in up] == [1, 2, 2, 1]
    leaks = [m.negative_slope for m in [*encoder.layers, *decoder.layers] if isinstance(m, nn.LeakyReLU)]
    assert leaks == [0.3] * 7


def test_memory_format_changes_no_value():
    encoder = ConvEncoder((1, 9, 8)).double()
    x = torch.randn(3, 1, 9, 8, dtype=torch.float64)
    plain = encoder.layers(x).reshape(3, -1)
    assert torch.allclose(encoder(x), plain, atol=1e-12)
    assert encoder(x).is_contiguous()


def test_the_mlp_is_its_layers_written_out():
    mlp = MLP((2, 3), (4,), hidden_dims=(5,), activation="tanh")
    x = torch.randn(7, 2, 3)
    first, second = mlp.layers[0], mlp.layers[2]
    assert torch.allclose(mlp(x), second(torch.tanh(first(x.reshape(7, 6)))))
    assert len(MLP((6,), (4,), hidden_dims=(5,), activate_last=True).layers) == 4


def test_no_items_give_no_items():
    mlp = MLP((1, 2, 3), (4, 5), hidden_dims=(7,))
    assert mlp(torch.zeros(0, 1, 2, 3)).shape == (0, 4, 5)
    assert mlp(torch.zeros(6, 0, 1, 2, 3)).shape == (6, 0, 4, 5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        mlp(torch.zeros(0, 1, 2, 4))  # control: of the right size, even so
    encoder = ConvEncoder((1, 5, 4), channels=(3, 2), strides=(2, 1))
    assert encoder(torch.zeros(0, 1, 5, 4)).shape == (0, encoder.features)
    assert ConvDecoder(encoder, 2)(torch.zeros(6, 0, 2)).shape == (6, 0, 1, 5, 4)


def test_numbers_are_items_of_an_mlp_too():
    mlp = MLP((), (), hidden_dims=(3,))
    x = torch.randn(4, 5)
    assert torch.equal(mlp(x), mlp.layers(x[..., None])[..., 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvEncoder((28, 28)), r"must be \(C, H, W\), got \(28, 28\); one channel is \(1, 28, 28\)"),
        (lambda: ConvEncoder((1, 8, 8), channels=(4,), strides=(1, 2)), "1 channels and 2 strides"),
        (lambda: ConvEncoder((1, 0, 8)), "H must be an integer of at least 1, got 0"),
        (lambda: MLP((2,), (2,), hidden_dims=(0,)), "hidden_dims must be an integer of at least 1, got 0"),
        (lambda: MLP((2,), (2,), activation="sofplus"), "did you mean 'softplus'"),
    ],
)
def test_bad_sizes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: pyrovae.mlp_vae(b"3"),
        lambda: pyrovae.mlp_vae((3,), hidden_dims=b"\x04\x04"),
        lambda: pyrovae.mlp_vae((3,), hidden_dims="44"),
        lambda: pyrovae.conv_vae(bytearray(b"\x01\x08\x08")),
        lambda: pyrovae.conv_vae((1, 8, 8), channels=b"\x04", strides=(1,)),
        lambda: pyrovae.conv_ae((1, 8, 8), channels=(4,), strides=b"\x01"),
        lambda: pyrovae.GaussianMixture(b"3", 2),
        lambda: pyrovae.gaussian_classifier(b"3", 2),
        lambda: pyrovae.DiscriminativeClassifier((3,), 2, hidden_dims=bytearray(b"\x04")),
        lambda: MLP(b"\x03", (2,)),
        lambda: Likelihood(MLP((2,), (51,)), pyrovae.Normal(), b"3"),
    ],
)
def test_bytes_are_no_sizes(call):
    with pytest.raises(TypeError, match="must be a sequence of sizes"):
        call()

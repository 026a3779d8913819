"""Networks from tensors to tensors, with any number of leading batch dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.elementary import Softplus

__all__ = ["ACTIVATIONS", "MLP", "ConvDecoder", "ConvEncoder", "image_shape", "require_room", "with_parameters"]

FLOAT_BYTES = 4  # of a weight, at the least

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "softplus": Softplus,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.3),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


class MLP(nn.Module):
    """Fully connected layers from `in_shape` to `out_shape`, an activation after each but the last.

    Shapes: (..., *in_shape) -> (..., *out_shape). With `activate_last` the last layer has one too, as a trunk needs
    whose heads are linear. Raises ValueError for an unknown activation or a width below 1.

    >>> import torch
    >>> from pyrovae.models.networks import MLP
    >>> MLP((1, 8, 8), (3,), hidden_dims=(16,))(torch.zeros(5, 2, 1, 8, 8)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden_dims: Sequence[int] = (400,),
        activation: str = "softplus",
        activate_last: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape = checks.sizes("in_shape", in_shape, one=False)
        self.out_shape = checks.sizes("out_shape", out_shape, one=False)
        hidden = checks.sizes("hidden_dims", hidden_dims, one=False)
        require_room(
            {"in_shape": self.in_shape, "hidden_dims": hidden, "out_shape": self.out_shape},
            [math.prod(self.in_shape), *hidden, math.prod(self.out_shape)],
        )
        make = ACTIVATIONS[checks.choice("activation", activation, ACTIVATIONS)]
        widths = [math.prod(self.in_shape), *hidden, math.prod(self.out_shape)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), make()]
        self.layers = nn.Sequential(*(layers if activate_last else layers[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - len(self.in_shape)]
        features = math.prod(x.shape[len(batch) :])  # reshape finds no -1 in an empty batch
        return self.layers(x.reshape(*batch, features)).reshape(*batch, *self.out_shape)


class ConvEncoder(nn.Module):
    """Strided 3x3 convolutions over an image of shape (C, H, W), flattened: (..., C, H, W) -> (..., features).

    Each layer keeps ceil(size / stride) pixels a side ("same" padding), so odd sizes pass; LeakyReLU(0.3) after each.
    `sizes` lists the pixel sizes from the image down, which a `ConvDecoder` climbs back up. `in_channels` is the number
    of channels that it sees where that is not C, as of categories that come one-hot.

    >>> from pyrovae.models.networks import ConvEncoder
    >>> ConvEncoder((1, 28, 28)).features
    3136
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64, 64, 64),
        strides: Sequence[int] = (1, 2, 2, 1),
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = image_shape(event_shape)
        self.channels, self.strides = _layers(channels, strides)
        colours, height, width = self.event_shape
        self.sizes = [(height, width)]
        for stride in self.strides:
            self.sizes.append((math.ceil(self.sizes[-1][0] / stride), math.ceil(self.sizes[-1][1] / stride)))
        colours = colours if in_channels is None else checks.whole("in_channels", in_channels)
        self._in_shape = (colours, height, width)
        require_room({"event_shape": self.event_shape, "channels": self.channels}, [colours, *self.channels], each=9)
        layers: list[nn.Module] = []
        for (before, after), stride in zip(pairwise((colours, *self.channels)), self.strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.LeakyReLU(0.3)]
        self.layers = nn.Sequential(*layers)
        self.features = self.channels[-1] * math.prod(self.sizes[-1])

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[:-3]
        # channels_last: the first convolution is several times faster so on a CPU
        flat = x.reshape(-1, *self._in_shape).contiguous(memory_format=torch.channels_last)
        return self.layers(flat).contiguous().reshape(*batch, self.features)


class ConvDecoder(nn.Module):
    """The layers of the encoder in reverse: (..., latent_dim) -> (..., C, H, W), without an activation after the last.

    A linear layer, then transposed 3x3 convolutions with the encoder's strides in reverse; each lands on the
    encoder's own pixel size, odd ones included. With several parameters a pixel, (..., num_parameters, C, H, W).

    >>> import torch
    >>> from pyrovae.models.networks import ConvDecoder, ConvEncoder
    >>> ConvDecoder(ConvEncoder((3, 7, 9)), latent_dim=2)(torch.zeros(4, 2)).shape
    torch.Size([4, 3, 7, 9])
    """

    def __init__(self, encoder: ConvEncoder, latent_dim: int, num_parameters: int = 1) -> None:
        super().__init__()
        self.event_shape = encoder.event_shape
        self.in_shape = (encoder.channels[-1], *encoder.sizes[-1])
        self._out_shape = with_parameters(self.event_shape, num_parameters)
        require_room({"latent_dim": latent_dim, "event_shape": self.event_shape}, [latent_dim, encoder.features])
        self.linear = nn.Linear(latent_dim, encoder.features)
        widths = (*reversed(encoder.channels), num_parameters * self.event_shape[0])
        layers: list[nn.Module] = []
        for (before, after), (small, large), stride in zip(
            pairwise(widths), pairwise(reversed(encoder.sizes)), reversed(encoder.strides), strict=True
        ):
            extra = (large[0] - (small[0] - 1) * stride - 1, large[1] - (small[1] - 1) * stride - 1)
            layers += [
                nn.ConvTranspose2d(before, after, 3, stride=stride, padding=1, output_padding=extra),
                nn.LeakyReLU(0.3),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        batch = z.shape[:-1]
        image = self.linear(z).reshape(-1, *self.in_shape).contiguous(memory_format=torch.channels_last)
        return self.layers(image).contiguous().reshape(*batch, *self._out_shape)


def with_parameters(event_shape: tuple[int, ...], num_parameters: int) -> tuple[int, ...]:
    """The shape that a decoder gives for one code: the event shape, with an axis for several parameters."""
    return event_shape if num_parameters == 1 else (num_parameters, *event_shape)


def require_room(arguments: Mapping[str, object], sizes: Sequence[int], *, each: int = 1) -> None:
    """Refuse layers between these sizes whose weights memory does not hold; `each` gives the weights of one layer."""
    weights = each * sum(before * after for before, after in pairwise(sizes))
    told = ", ".join(f"{name}={value}" for name, value in arguments.items())
    checks.affordable(f"{told}: {weights:,} weights", weights * FLOAT_BYTES, "take smaller sizes")


def image_shape(event_shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape of an image, (C, H, W); ValueError for any other."""
    shape = tuple(checks.sequence("event_shape", event_shape))
    if len(shape) != 3:
        hint = f"; one channel is {(1, *shape)}" if len(shape) == 2 else ""
        raise ValueError(f"event_shape of a convolutional network must be (C, H, W), got {shape}{hint}")
    return checks.whole("C", shape[0]), checks.whole("H", shape[1]), checks.whole("W", shape[2])


def _layers(channels: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    widths = checks.sizes("channels", channels, one=False)
    steps = checks.sizes("strides", strides, one=False)
    if not widths or len(widths) != len(steps):
        raise ValueError(
            "channels and strides must be of one length, at least 1, "
            f"got {len(widths)} channels and {len(steps)} strides"
        )
    return widths, steps

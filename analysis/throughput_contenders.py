"""Who is timed by throughput.py: each `start(work, device)` gives a function that trains once through some images.

`run(x)` returns seconds and the mean loss in nats an image, from where the run before left off.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F  # noqa: N812
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn

import pyrovae

Run = Callable[[Tensor], tuple[float, float]]


@dataclass(frozen=True)
class Work:
    """The network of a workload, W1 or W2: a perceptron on binary images, or the post's convolutions on grey ones."""

    name: str
    latent_dim: int
    batch: int
    learning_rate: float

    @property
    def convolves(self) -> bool:
        return self.name == "W2"

    def pair(self) -> pyrovae.VAE:
        torch.manual_seed(0)
        if self.convolves:
            return pyrovae.conv_vae((1, 28, 28), self.latent_dim, likelihood=pyrovae.Normal(0.626, link="sigmoid"))
        return pyrovae.mlp_vae((1, 28, 28), self.latent_dim)


W1, W2 = Work("W1", 20, 256, 1e-3), Work("W2", 2, 128, 5e-4)


def batches(x: Tensor, size: int, epoch: int) -> Any:
    index = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).to(x.device)
    return (x[index[i : i + size]] for i in range(0, len(x), size))


def looped(work: Work, step: Callable[[Tensor], Any]) -> Run:
    """`step(batch)` gives the batch's loss an image."""
    epochs = iter(range(10**9))

    def run(x: Tensor) -> tuple[float, float]:
        begun, losses = time.perf_counter(), []
        for batch in batches(x, work.batch, next(epochs)):
            losses.append(step(batch))
        losses = [float(loss) for loss in losses]  # which waits for all of them
        return time.perf_counter() - begun, float(np.mean(losses))

    return run


# this package -------------------------------------------------------------------------------------


def fit(work: Work, device: str, **options: Any) -> Run:
    vae = work.pair()

    def run(x: Tensor) -> tuple[float, float]:
        """Two epochs: the second one's seconds, past the caches that a first fills, and the first one's loss."""
        plan = {"batch_size": work.batch, "learning_rate": work.learning_rate, "device": device, "progress": False}
        history = pyrovae.fit(vae, x, epochs=2, **plan, **options)
        return float(history.epochs.seconds[1]), float(history.epochs.loss[0])

    return run


def compiled_svi(work: Work, device: str) -> Run:
    vae = work.pair().to(device)
    optim = pyro.optim.Adam({"lr": work.learning_rate})
    svi = pyrovae.CompiledSVI(vae.model, vae.guide, optim, Trace_ELBO())
    return looped(work, lambda x: svi.step_tensor(x) / len(x))


# the same by hand ---------------------------------------------------------------------------------


class ByHand(nn.Module):
    """The network, its draw and its bound without Pyro."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolves = work.convolves
        if self.convolves:
            steps, widths = (1, 2, 2, 1), (1, 32, 64, 64, 64)
            down, up = [], []
            for i, s in enumerate(steps):
                down += [nn.Conv2d(widths[i], widths[i + 1], 3, stride=s, padding=1), nn.LeakyReLU(0.3)]
            for i, s in enumerate((1, 2, 2, 1)):
                a, b = (64, 64, 64, 32, 1)[i : i + 2]
                up += [nn.ConvTranspose2d(a, b, 3, stride=s, padding=1, output_padding=s - 1), nn.LeakyReLU(0.3)]
            self.encoder = nn.Sequential(*down, nn.Flatten())
            self.decoder = nn.Sequential(
                nn.Linear(work.latent_dim, 3136), nn.Unflatten(1, (64, 7, 7)), *up[:-1], nn.Sigmoid()
            )
            features = 3136
        else:
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.Softplus())
            self.decoder = nn.Sequential(nn.Linear(work.latent_dim, 400), nn.Softplus(), nn.Linear(400, 784))
            features = 400
        self.loc, self.log_scale = nn.Linear(features, work.latent_dim), nn.Linear(features, work.latent_dim)

    def forward(self, x: Tensor, half: bool = False) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            h = self.encoder(x)
            loc, log_scale = self.loc(h), self.log_scale(h)
        loc, log_scale = loc.float(), log_scale.float()
        z = loc + log_scale.exp() * torch.randn_like(loc)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            out = self.decoder(z)
        out, x = out.float().flatten(1), x.flatten(1)
        if self.convolves:
            log_scale_x = np.log(0.626) + 0.5 * np.log(2 * np.pi)
            reconstruction = 0.5 * ((x - out) / 0.626).square().sum() + log_scale_x * x.numel()
        else:
            reconstruction = F.binary_cross_entropy_with_logits(out, x, reduction="sum")
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
        return (reconstruction + kl) / len(x)


def by_hand(work: Work, device: str, *, compile: bool = False, half: bool = False, channels_last: bool = False) -> Run:
    net = ByHand(work).to(device)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), work.learning_rate, fused=True)
    loss_of = torch.compile(net, dynamic=False) if compile else net

    def step(x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        optimizer.zero_grad()
        loss = loss_of(x, half)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return looped(work, step)


def by_hand_recorded(work: Work, device: str, *, channels_last: bool = False) -> Run:
    """The eager step by hand, recorded once as a CUDA graph and replayed for each batch."""
    net = ByHand(work).to(device)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), work.learning_rate, fused=True, capturable=True)
    x = torch.rand(work.batch, 1, 28, 28, device=device)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = net(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    @cache
    def recording() -> tuple[Callable[[], None], Tensor]:
        first = [p.detach().clone() for p in net.parameters()]
        found = recorded(step)
        with torch.no_grad():
            for p, value in zip(net.parameters(), first, strict=True):
                p.copy_(value)
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()
        return found

    def take(batch: Tensor) -> Tensor:
        replay, loss = recording()
        x.copy_(batch)
        replay()
        return loss.clone()

    return looped(work, take)


def recorded(step: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """What replays the step, which was taken three times on a stream of its own, and what it writes its result to."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


# Pyro ---------------------------------------------------------------------------------------------


class InPyro(nn.Module):
    """A model and a guide as Pyro's users write them, over the networks above; on logits, or as probabilities."""

    def __init__(self, work: Work, *, probabilities: bool = False) -> None:
        super().__init__()
        self.net, self.latent_dim, self.probabilities = ByHand(work), work.latent_dim, probabilities

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.net.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), self.latent_dim), 1.0).to_event(1))
            out = self.net.decoder(z).flatten(1)
            if self.net.convolves:
                law = dist.Normal(out, 0.626)
            elif self.probabilities:
                law = dist.Bernoulli(out.sigmoid(), validate_args=False)
            else:
                law = dist.Bernoulli(logits=out, validate_args=False)
            pyro.sample("obs", law.to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        for name in ("encoder", "loc", "log_scale"):
            pyro.module(name, getattr(self.net, name))
        with pyro.plate("data", len(x)):
            h = self.net.encoder(x)
            pyro.sample("latent", dist.Normal(self.net.loc(h), self.net.log_scale(h).exp()).to_event(1))


def pyro_svi(
    work: Work, device: str, elbo: Any = Trace_ELBO, *, probabilities: bool = False, loader: Any = None
) -> Run:
    pyro.clear_param_store()
    pair = InPyro(work, probabilities=probabilities).to(device)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": work.learning_rate}), elbo())
    if loader is None:
        return looped(work, lambda x: svi.step(x) / len(x))

    def run(x: Tensor) -> tuple[float, float]:
        begun = time.perf_counter()
        losses = [svi.step(batch.to(device)) / len(batch) for batch in loader(x, work.batch)]
        return time.perf_counter() - begun, float(np.mean(losses))

    return run


def image_loader(x: Tensor, size: int) -> Any:
    """Images in bytes, each made a tensor by itself, as torchvision's MNIST under ToTensor."""
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    grey = (x[:, 0] * 255).byte().cpu().numpy()

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(grey)

        def __getitem__(self, i: int) -> Tensor:
            return to_tensor(Image.fromarray(grey[i], mode="L"))

    return torch.utils.data.DataLoader(Images(), size, shuffle=True)


# peers --------------------------------------------------------------------------------------------


def pythae(work: Work, device: str) -> Run:
    import logging

    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.WARNING)
    net = ByHand(work)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.loc, self.log_scale = net.encoder, net.loc, net.log_scale

        def forward(self, x: Tensor) -> Any:
            h = self.body(x)
            return ModelOutput(embedding=self.loc(h), log_covariance=2 * self.log_scale(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = net.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z).sigmoid())

    settings = VAEConfig(input_dim=(1, 28, 28), latent_dim=work.latent_dim, reconstruction_loss="bce")
    model = VAE(settings, encoder=Encoder(), decoder=Decoder())

    def run(x: Tensor) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            config = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=1,
                per_device_train_batch_size=work.batch,
                learning_rate=work.learning_rate,
                optimizer_cls="Adam",
                no_cuda=device == "cpu",
            )
            trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=config)
            trainer.prepare_training()
            begun = time.perf_counter()
            loss = trainer.train_step(epoch=1)
            return time.perf_counter() - begun, float(loss)

    return run


def numpyro(work: Work, device: str) -> Run:
    import jax
    import jax.numpy as jnp
    import numpyro as npr
    import numpyro.distributions as nd
    from numpyro.infer import SVI as NSVI
    from numpyro.infer import Trace_ELBO as NTrace

    net = ByHand(work)
    arrays = {name: jnp.asarray(p.detach().numpy()) for name, p in net.named_parameters()}

    def param(name: str) -> Any:
        return npr.param(name.replace(".", "_"), arrays[name])

    def linear(name: str, x: Any) -> Any:
        return x @ param(f"{name}.weight").T + param(f"{name}.bias")

    def model(x: Any) -> None:
        with npr.plate("data", len(x)):
            z = npr.sample("latent", nd.Normal(jnp.zeros((len(x), work.latent_dim)), 1.0).to_event(1))
            h = jax.nn.softplus(linear("decoder.0", z))
            npr.sample("obs", nd.Bernoulli(logits=linear("decoder.2", h)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        with npr.plate("data", len(x)):
            h = jax.nn.softplus(linear("encoder.1", x))
            law = nd.Normal(linear("loc", h), jnp.exp(linear("log_scale", h)))
            npr.sample("latent", law.to_event(1))

    svi = NSVI(model, guide, npr.optim.Adam(work.learning_rate), NTrace())
    state = svi.init(jax.random.PRNGKey(0), jnp.zeros((work.batch, 784)))
    update = jax.jit(svi.update)

    def step(x: Tensor) -> Any:
        nonlocal state
        state, loss = update(state, jnp.asarray(x.flatten(1).numpy()))
        return loss / len(x)

    return looped(work, step)


# the limit ----------------------------------------------------------------------------------------


def limit(work: Work, device: str, *, half: bool = False) -> Run:
    """Matrix products and convolutions of a step, forward and backward, and one fused Adam; nothing between them.

    On a CUDA device one graph, so that they wait for no launch.
    """
    net, dtype = ByHand(work).to(device), torch.bfloat16 if half else torch.float32
    shape = (work.batch, 1, 28, 28)
    layers: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(layer: nn.Module, given: Any, output: Tensor) -> None:
        layers.append((layer, given[0].detach().to(dtype), torch.randn_like(output).to(dtype)))

    parts = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [m.register_forward_hook(note) for m in parts]
    net(torch.rand(shape, device=device))
    for hook in hooks:
        hook.remove()
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    on_cuda = device != "cpu"
    optimizer = torch.optim.Adam(net.parameters(), work.learning_rate, fused=True, capturable=on_cuda)
    calls = [product for number, layer in enumerate(layers) for product in products(*layer, first=number == 0)]

    def step() -> None:
        for call in calls:
            call()
        optimizer.step()

    with torch.no_grad():
        take = recorded(step)[0] if on_cuda else step

    @torch.no_grad()
    def run(x: Tensor) -> tuple[float, float]:
        begun = time.perf_counter()
        for _ in range(0, len(x), work.batch):
            take()
        if on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begun, float("nan")

    return run


def products(layer: Any, x: Tensor, g: Tensor, *, first: bool) -> list[Callable[[], Any]]:
    """A layer's product forward, and those for its weights' and its input's gradient."""
    weight, bias = layer.weight.detach().to(x.dtype), layer.bias.detach().to(x.dtype)
    if isinstance(layer, nn.Linear):
        found = [partial(torch.addmm, bias, x, weight.t()), partial(torch.mm, g.t(), x)]
        return found if first else [*found, partial(torch.mm, g, weight)]
    transposed = isinstance(layer, nn.ConvTranspose2d)
    x, g, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, g, weight))
    more = (layer.stride, layer.padding, layer.dilation, transposed, layer.output_padding, layer.groups)
    mask = [not first, True, True]
    return [
        partial(torch.ops.aten.convolution, x, weight, bias, *more),
        partial(torch.ops.aten.convolution_backward, g, x, weight, [len(bias)], *more, mask),
    ]


CONTENDERS: dict[str, dict[str, Callable[[Work, str], Run]]] = {
    "W1": {
        "limit, bfloat16": partial(limit, half=True),
        "fit, compiled, bf16": partial(fit, compile=True, precision="bf16"),
        "by hand, compiled, bf16": partial(by_hand, compile=True, half=True),
        "limit, float32": limit,
        "fit, compiled": partial(fit, compile=True),
        "CompiledSVI": compiled_svi,
        "by hand, compiled": partial(by_hand, compile=True),
        "NumPyro, jit": numpyro,
        "fit, eager, bf16": partial(fit, compile=False, precision="bf16"),
        "by hand": by_hand,
        "by hand, CUDA graph": by_hand_recorded,
        "fit, eager": partial(fit, compile=False),
        "Pyro, Trace_ELBO": pyro_svi,
        "Pyro, JitTrace_ELBO": partial(pyro_svi, elbo=JitTrace_ELBO),
        "pythae": pythae,
        "Pyro, images one by one": partial(pyro_svi, probabilities=True, loader=image_loader),
    },
    "W2": {
        "limit, bfloat16": partial(limit, half=True),
        "fit, compiled, bf16": partial(fit, compile=True, precision="bf16"),
        "limit, float32": limit,
        "fit, compiled": partial(fit, compile=True),
        "fit, eager, bf16": partial(fit, compile=False, precision="bf16"),
        "fit, eager": partial(fit, compile=False),
        "by hand, channels_last": partial(by_hand, channels_last=True),
        "by hand": by_hand,
        "by hand, CUDA graph": partial(by_hand_recorded, channels_last=True),
        "Pyro, Trace_ELBO": pyro_svi,
    },
}

"""A user's own parts: a likelihood of two parameters per entry, a prior and a posterior without a mean."""

import math

import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
from torch import nn
from torch.distributions import constraints

import pyrovae


@pyrovae.register("users_student_t", kind="likelihood")
class StudentT(nn.Module):
    """Real entries with heavy tails, each with a location and a scale of its own."""

    support = constraints.real
    num_parameters = 2

    def __init__(self, df=5.0):
        super().__init__()
        self.df = df

    def forward(self, loc, raw_scale):
        return dist.StudentT(self.df, loc, nn.functional.softplus(raw_scale) + 1e-3)


@pyrovae.register("users_mixture", kind="prior")
class Mixture(nn.Module):
    """Normals around a circle in the first two dimensions, with weights that are learned."""

    def __init__(self, latent_dim, num_components=3, *, radius=1.5, scale=0.5):
        super().__init__()
        self.latent_dim = latent_dim
        angle = torch.arange(num_components) * (2 * math.pi / num_components)
        loc = torch.zeros(num_components, latent_dim)
        loc[:, 0], loc[:, 1] = radius * angle.cos(), radius * angle.sin()
        self.register_buffer("loc", loc)
        self.scale = scale
        self.logits = nn.Parameter(torch.zeros(num_components))

    def forward(self):
        normals = dist.Normal(self.loc, self.scale).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), normals)


@pyrovae.register("users_flow", kind="posterior")
class Flow(nn.Module):
    """A normal pushed through an affine coupling of Pyro's, whose mean has no closed form."""

    def __init__(self, network, features, latent_dim, hidden_dim=8):
        super().__init__()
        self.network = network
        self.moments = nn.Linear(features, 2 * latent_dim)
        self.coupling = transforms.affine_coupling(latent_dim, [hidden_dim])

    def forward(self, x):
        loc, raw_scale = self.moments(self.network(x)).chunk(2, -1)
        normal = dist.Normal(loc, nn.functional.softplus(raw_scale) + 1e-3)
        return dist.TransformedDistribution(normal, [self.coupling])

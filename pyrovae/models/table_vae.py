"""A VAE of tables: rows of real, positive, count, binary, categorical and ordinal columns, some entries missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pyrovae.columns import checked_columns
from pyrovae.models.parts.columns import ColumnFamily, checked_families, in_recipes
from pyrovae.models.registry import note, register
from pyrovae.models.vae import VAE, mlp_vae

__all__ = ["table_vae"]


@register("table_vae", kind="builder")
def table_vae(
    columns: Any,
    latent_dim: int = 2,
    *,
    hidden_dims: Sequence[int] = (128,),
    activation: str = "softplus",
    families: Any = None,
    posterior: str | nn.Module = "diagonal",
    prior: str | nn.Module = "standard",
    covariate_dim: int = 0,
) -> VAE:
    """A VAE of the rows of a table: its columns are independent given the code, each of the family of its kind.

    `columns` are those of a table, `data.table(frame).columns`, or the table itself. `families` names others than the
    defaults, by kind or by column, as {"real": "student_t", "income": "gamma"}; `ColumnFamily` lists them. Counts are
    negative binomial by default, where those of a `ColumnMixture` are Poisson in each class. Entries may be missing,
    NaN, in training and in estimates (`missing=True`, or the split of a table): the encoder sees zeros and a mask
    there, and log p(x) is that of the seen entries, in the units of x as given. Location and scale of numbers are
    measured by the first `fit`, on the training part alone.

    `decode(z)` is a row that can be shown: means of numbers and counts, the probability of 1 of a binary column, the
    most probable code of a category; `probabilities(z)` has all categories, by column. The other arguments are those of
    `mlp_vae`. Raises ValueError and TypeError for columns that are none, and for families that do not fit them.

    >>> import torch
    >>> from pyrovae import Column, table_vae
    >>> columns = [Column("age", "positive"), Column("visits", "count"), Column("sex", "binary", ("f", "m"))]
    >>> vae = table_vae(columns, hidden_dims=(8,))
    >>> x = torch.tensor([[31.0, 2.0, 1.0], [torch.nan, 0.0, 0.0]])
    >>> vae.encode(x, missing=True).shape, vae.columns[0].name
    (torch.Size([2, 2]), 'age')
    """
    made = checked_columns(columns)
    entries = ColumnFamily(made, families)
    vae: VAE = mlp_vae(
        (len(made),),
        latent_dim,
        hidden_dims=hidden_dims,
        activation=activation,
        likelihood=entries,
        posterior=posterior,
        prior=prior,
        covariate_dim=covariate_dim,
    )
    note(vae, columns=made, families=in_recipes(checked_families(families, made)))
    return vae

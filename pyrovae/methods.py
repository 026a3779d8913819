"""The methods of `fit`, as objects that hold their options."""

from __future__ import annotations

# two files of which nothing is exported, and which state the methods of their pairs
from pyrovae.inference import bayesian_vae, per_class  # noqa: F401
from pyrovae.inference.bayesian import NUTS
from pyrovae.inference.closed_form import ClosedForm
from pyrovae.inference.discriminative import LBFGS
from pyrovae.inference.em.options import EM
from pyrovae.inference.linear_em import LinearEM
from pyrovae.inference.method import Method, Task, methods_of, register, register_methods
from pyrovae.inference.semi_supervised import SemiSupervisedSVI
from pyrovae.inference.svi.options import SVI

__all__ = [
    "EM",
    "LBFGS",
    "NUTS",
    "SVI",
    "ClosedForm",
    "LinearEM",
    "Method",
    "SemiSupervisedSVI",
    "Task",
    "methods_of",
    "register",
    "register_methods",
]

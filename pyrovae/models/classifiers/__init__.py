"""Classifiers as Pyro pairs: by Bayes' rule from a density of each class, or by p(y | x) alone."""

from pyrovae.models.classifiers.classes import Classifier, nameable, numbered
from pyrovae.models.classifiers.densities import ClassDensities
from pyrovae.models.classifiers.discriminative import DiscriminativeClassifier
from pyrovae.models.classifiers.generative import GenerativeClassifier, gaussian_classifier

__all__ = [
    "ClassDensities",
    "Classifier",
    "DiscriminativeClassifier",
    "GenerativeClassifier",
    "gaussian_classifier",
    "nameable",
    "numbered",
]

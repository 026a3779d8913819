"""A classifier trained on the training images alone and then frozen, by which decoded images are judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.evaluation.code_space.arrays import as_floats, binomial_se
from pyrovae.labelled import labelled
from pyrovae.warned import hushed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Judge"]


@dataclass(frozen=True, eq=False)
class Judge:
    """A frozen classifier, trained on the training images alone: a network of rectified layers, given by its weights.

    `weights[i]` has shape (inputs, outputs) and `biases[i]` (outputs,). The last layer gives
    one logit per class or, for two classes, one logit for the second.

    >>> import torch
    >>> from pyrovae import Judge
    >>> images = torch.linspace(-1, 1, 40)[:, None, None, None].expand(40, 1, 3, 3)
    >>> labels = images[:, 0, 0, 0] > 0
    >>> judge = Judge.fit(images, labels)
    >>> judge.features(images).shape, float(judge.accuracy(images, labels).accuracy)
    (torch.Size([40, 64]), 1.0)
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    classes_: np.ndarray
    event_shape: tuple[int, ...]

    @classmethod
    def fit(
        cls, x: Any, y: Any, *, seed: int = 0, hidden_dims: tuple[int, ...] = (256, 64), max_iter: int | None = None
    ) -> Judge:
        """Train on images, shape (N, *event), and labels, with scikit-learn's MLPClassifier in its default settings.

        Training takes `max_iter` epochs of batches of 200 items; None takes about 3,000 updates, in
        10 to 400 epochs. Raises ValueError for other shapes and for a single class.

        >>> import torch
        >>> from pyrovae import Judge
        >>> Judge.fit(torch.eye(4), ["a", "a", "b", "b"], hidden_dims=(4,), max_iter=5).predict(torch.eye(4)).shape
        (4,)
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        like = as_floats(x, "x")
        if like.ndim < 2:
            raise ValueError(f"x must have shape (N, *event), got {tuple(like.shape)}")
        images = checks.checked_array(x, tuple(like.shape[1:]), dtype=torch.float32).detach().cpu()
        labels = checks.labels(y, len(images))
        checks.several_classes(labels)
        hidden_dims = checks.sizes("hidden_dims", hidden_dims, one=False)
        if not hidden_dims:
            raise ValueError("hidden_dims must name at least one hidden layer, got ()")
        ends = [images[0].numel(), *hidden_dims, len(np.unique(labels))]
        weights_bytes = 8 * sum(a * b for a, b in pairwise(ends))
        checks.affordable(f"hidden_dims={tuple(hidden_dims)}", weights_bytes, "take smaller ones")
        updates = math.ceil(len(images) / 200)
        budget = min(400, max(10, math.ceil(3000 / updates)))
        epochs = budget if max_iter is None else checks.whole("max_iter", max_iter)
        network = MLPClassifier(tuple(hidden_dims), max_iter=epochs, random_state=checks.seed(seed, most=2**32 - 1))
        with hushed(ConvergenceWarning):  # the number of epochs is the stated budget, not a failure
            network.fit(images.flatten(1).numpy(), labels)
        weights = tuple(np.asarray(w, np.float32) for w in network.coefs_)
        biases = tuple(np.asarray(b, np.float32) for b in network.intercepts_)
        return cls(weights, biases, network.classes_, tuple(like.shape[1:]))

    def features(self, images: Any) -> Tensor:
        """The last hidden layer's activations, shape (n, hidden_dims[-1]), float32.

        >>> import numpy as np
        >>> import torch
        >>> from pyrovae import Judge
        >>> judge = Judge((np.eye(2), np.eye(2)), (np.zeros(2), np.zeros(2)), np.array([0, 1]), (2,))
        >>> judge.features(torch.tensor([[1.0, -1.0]])).tolist()
        [[1.0, 0.0]]
        """
        x = checks.checked_array(images, self.event_shape, name="images", dtype=torch.float32).detach().cpu().flatten(1)
        layers = [(_weight(w), _weight(b)) for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True)]
        parts = []
        with torch.no_grad():
            for hidden in torch.split(x, 4096):
                for weight, bias in layers:
                    hidden = torch.relu(torch.addmm(bias, hidden, weight))
                parts.append(hidden)
        return torch.cat(parts)

    def predict_proba(self, images: Any) -> np.ndarray:
        """The probability of each class, shape (n, number of classes), float32.

        >>> import numpy as np
        >>> import torch
        >>> from pyrovae import Judge
        >>> judge = Judge((np.eye(2), np.eye(2)), (np.zeros(2), np.zeros(2)), np.array([0, 1]), (2,))
        >>> judge.predict_proba(torch.zeros(1, 2))
        array([[0.5, 0.5]], dtype=float32)
        """
        logits = torch.addmm(_weight(self.biases[-1]), self.features(images), _weight(self.weights[-1]))
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return torch.softmax(logits, 1).numpy()

    def predict(self, images: Any) -> np.ndarray:
        """The most probable class of each image, shape (n,), in the type of the training labels.

        >>> import numpy as np
        >>> import torch
        >>> from pyrovae import Judge
        >>> judge = Judge((np.eye(2), np.eye(2)), (np.zeros(2), np.zeros(2)), np.array(["a", "b"]), (2,))
        >>> judge.predict(torch.eye(2)).tolist()
        ['a', 'b']
        """
        return self.classes_[self.predict_proba(images).argmax(1)]

    def accuracy(self, images: Any, labels: Any) -> xr.Dataset:
        """The share of images that are given their label, with its binomial standard error.

        >>> import numpy as np
        >>> import torch
        >>> from pyrovae import Judge
        >>> judge = Judge((np.eye(2), np.eye(2)), (np.zeros(2), np.zeros(2)), np.array([0, 1]), (2,))
        >>> float(judge.accuracy(torch.eye(2), [0, 0]).accuracy)
        0.5
        """
        predicted = self.predict(images)
        share = float((predicted == checks.labels(labels, len(predicted), name="labels", of="images")).mean())
        return labelled(
            {
                "accuracy": (share, "accuracy of the judge", "1"),
                "accuracy_se": (binomial_se(share, len(predicted)), "binomial standard error of the accuracy", "1"),
                "num_items": (len(predicted), "images judged", "items"),
            }
        )


def _weight(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))

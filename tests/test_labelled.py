"""Data sets with names and units."""

from __future__ import annotations

import numpy as np
import torch

from pyrovae.labelled import labelled


def test_each_variable_has_its_dimensions_and_words_and_no_empty_ones():
    data = labelled(
        {
            "value": (torch.tensor([1.0, 2.0]), "a value", "nats", "item"),
            "table": (np.eye(2), None, "1", "item", "label"),
            "count": (3, None, None),
        },
        {"item": [0, 1]},
        {"seed": 0},
    )
    assert data.value.attrs == {"long_name": "a value", "units": "nats"}
    assert (data.table.dims, data.table.attrs) == (("item", "label"), {"units": "1"})
    assert (data["count"].dims, data["count"].attrs, int(data["count"])) == ((), {}, 3)
    assert data.attrs == {"seed": 0} and data.item.values.tolist() == [0, 1]

"""`data.labelled_subset`: as many items of each class, at random."""

import pytest
import torch

from pyrovae.data import labelled_subset

Y = ["a"] * 10 + ["b"] * 5 + ["c"] * 30


def test_each_class_has_as_many_items_and_no_item_twice():
    index = labelled_subset(Y, 12)
    assert [sum(Y[i] == name for i in index) for name in "abc"] == [4, 4, 4]
    assert len(set(index.tolist())) == 12
    assert [sum(Y[i] == name for i in labelled_subset(Y, 8)) for name in "abc"] == [3, 3, 2]


def test_another_seed_draws_others_and_the_same_one_the_same():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(labelled_subset(Y, 9, seed=1), labelled_subset(Y, 9, seed=1))
    assert not torch.equal(labelled_subset(Y, 9, seed=1), labelled_subset(Y, 9, seed=2))
    assert torch.equal(before, torch.get_rng_state())


def test_every_item_of_a_class_is_as_likely():
    """1,000 seeds, 2 of 10 items: counts within 5 standard errors of 200, by chance outside in 1 of 100,000 runs."""
    counts = torch.zeros(45)
    for seed in range(1000):
        counts[labelled_subset(Y, 6, seed=seed)] += 1
    assert ((counts[:10] - 200).abs() < 5 * (1000 * 0.2 * 0.8) ** 0.5).all()


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="at least 1 for each of the 3 classes, got 2"):
        labelled_subset(Y, 2)
    with pytest.raises(ValueError, match="takes 6 items of class 'b', and y has 5 of it"):
        labelled_subset(Y, 18)

"""What is hidden in a folder, and that it counts for nothing wherever a folder is looked at."""

from __future__ import annotations

import pytest
import torch

import pyrovae
from pyrovae.hidden import is_hidden, visible, visible_files

LEFT = (".DS_Store", "._weights.safetensors", "Thumbs.db", "desktop.ini", "Desktop.ini", ".nfs000001", ".fuse_hidden01")


def leave(folder):
    """What file managers and file systems leave in a folder."""
    for name in LEFT:
        (folder / name).write_text(name)
    (folder / "__MACOSX").mkdir(exist_ok=True)
    (folder / "__MACOSX" / "._a.png").write_text("")


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if is_hidden(path.name))


@pytest.mark.parametrize(
    "name", [*LEFT, "__MACOSX", "Icon\r", "$RECYCLE.BIN", ".ipynb_checkpoints", "ehthumbs_vista.db"]
)
def test_what_nobody_put_there_is_hidden(name):
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["thumbs", "a.DS_Store", "desktop", "_a.png", "__background__", "Icon", "db", "x.ini"])
def test_what_somebody_put_there_is_not(name):
    assert not is_hidden(name)


def test_visible_entries_and_files(tmp_path):
    leave(tmp_path)
    (tmp_path / "b").mkdir()
    leave(tmp_path / "b")
    (tmp_path / "b" / "x").write_text("")
    (tmp_path / "a").write_text("")
    (tmp_path / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert [path.name for path in visible(tmp_path)] == ["a", "b"]
    assert [path.name for path in visible_files(tmp_path)] == ["a", "up", "x"]  # and the walk ends


def test_a_state_is_saved_over_one_that_was_looked_at(tmp_path):
    first, second = pyrovae.mlp_vae((3,), hidden_dims=(4,)), pyrovae.mlp_vae((3,), hidden_dims=(5,))
    folder = pyrovae.save(tmp_path / "state", first)
    leave(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "mine").write_text("keep")
    for pair in (second, first):
        pyrovae.save(folder, pair)
        again = pyrovae.load(folder)
        assert all(map(torch.equal, again.parameters(), pair.parameters()))
    # nothing of it was lost, and nothing else lies there
    assert left_in(folder) == sorted([*LEFT, "__MACOSX", ".git"])
    assert (folder / ".git" / "mine").read_text() == "keep"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    (folder / "thesis.tex").write_text("years")  # the control
    with pytest.raises(FileExistsError, match="is not a saved state"):
        pyrovae.save(folder, second)


def test_an_empty_folder_that_was_looked_at_is_filled(tmp_path):
    leave(tmp_path)
    pair = pyrovae.mlp_vae((3,), hidden_dims=(4,))
    again = pyrovae.load(pyrovae.save(tmp_path, pair))
    assert all(map(torch.equal, again.parameters(), pair.parameters()))
    assert left_in(tmp_path) == sorted([*LEFT, "__MACOSX"])


def test_a_run_begins_and_goes_on_in_a_folder_that_was_looked_at(tmp_path):
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)).round()
    leave(tmp_path)
    found = []
    for folder, epochs in ((None, 2), (tmp_path, 1), (tmp_path, 2)):
        torch.manual_seed(0)
        vae = pyrovae.mlp_vae((3,), hidden_dims=(4,))
        options = {"checkpoint": folder, "resume": folder is not None and epochs == 2}
        pyrovae.fit(vae, x, epochs=epochs, progress=False, compile=False, **options)
        found.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
        for state in tmp_path.glob("epoch-*"):
            leave(state)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert {".DS_Store", "Thumbs.db"} <= set(left_in(tmp_path))

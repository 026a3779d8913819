"""Saving over a state: at each moment its path holds a whole one, whoever kills, reads or fills the disk."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

import pyrovae
from pyrovae import durable
from pyrovae.inference.checkpoint import MANIFEST, RUN, WEIGHTS, CheckpointError, opening, read_run, replacing, write
from pyrovae.inference.checkpoint.manifest import NAMED, manifest_digest, parsed_manifest
from pyrovae.inference.snapshots import Snapshots


def pair(value=None):
    vae = pyrovae.linear_vae(3, 2)
    if value is not None:
        with torch.no_grad():
            for p in vae.parameters():
                p.fill_(value)
    return vae


def value_of(vae):
    """The one number that all weights of a whole state are."""
    values = torch.cat([p.detach().flatten() for p in vae.parameters()])
    assert bool((values == values[0]).all())
    return float(values[0])


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize(
    "earlier", ["a state", *(pytest.param(one, marks=pytest.mark.slow) for one in ("an empty folder", "nothing"))]
)
def test_a_kill_at_any_call_leaves_a_whole_state_and_the_next_save_cleans(tmp_path, killed_at, earlier):
    first, second, third = pair(1.0), pair(2.0), pair(3.0)
    found = set()
    for n in range(100):
        target = tmp_path / str(n) / "state"
        target.parent.mkdir()
        if earlier == "a state":
            pyrovae.save(target, first)
        elif earlier == "an empty folder":
            target.mkdir()
        made = killed_at(n, lambda target=target: pyrovae.save(target, second))
        try:
            found.add(value_of(pyrovae.load(target)))
        except (CheckpointError, FileNotFoundError):
            assert earlier != "a state"
            found.add(0.0)
        pyrovae.save(target, third)
        assert value_of(pyrovae.load(target)) == 3.0
        assert names(target.parent) == ["state"] and len(names(target)) == 2  # what the kill left is gone
        if len(made) < n:
            break
    assert n > 6 and found == ({1.0, 2.0} if earlier == "a state" else {0.0, 2.0})


@pytest.fixture
def order(monkeypatch):
    """What was done to the disk, in its order: names of what was synced, renamed and removed, without their tokens."""
    made = []

    def noted(home, name, said):
        real = getattr(home, name)

        def call(first, *args, **named):
            path = os.readlink(f"/proc/self/fd/{first}") if name == "fsync" else str(first)
            made.append(f"{said} {re.sub('-[0-9a-f]{16}|-new-.*', '', os.path.basename(path)).lstrip('.')}")
            return real(first, *args, **named)

        monkeypatch.setattr(home, name, call)

    for home, name, said in (
        (os, "fsync", "sync"),
        (os, "replace", "rename"),
        (os, "rename", "rename"),
        (os, "unlink", "remove"),
        (os, "remove", "remove"),
    ):
        noted(home, name, said)
    return made


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not say what an open file is")
def test_files_are_on_the_disk_before_their_names_and_earlier_ones_go_last(tmp_path, order):
    target, run = tmp_path / "state", ({"epoch": 1}, {"moment": torch.ones(2)})
    write(target, pair(1.0), run)
    files = [f"sync {name}" for name in (WEIGHTS, RUN, MANIFEST)]
    assert order == [*files, "sync state", "rename state", f"sync {tmp_path.name}"]
    order.clear()
    write(target, pair(2.0), run)
    assert order[:6] == [*files, "sync state", f"rename {MANIFEST}", "sync state"]
    assert sorted(order[6:]) == [f"remove {RUN}", f"remove {WEIGHTS}"]


def test_a_reader_between_two_saves_of_it_has_all_of_one(tmp_path, monkeypatch):
    pyrovae.save(tmp_path / "state", pair(1.0))
    parsed, saves = opening.parsed_manifest, [2.0, 3.0]

    def then_saved_over(file, content):  # after the manifest was read, and before its weights are opened
        manifest = parsed(file, content)
        if saves:
            pyrovae.save(tmp_path / "state", pair(saves.pop(0)))
        return manifest

    monkeypatch.setattr(opening, "parsed_manifest", then_saved_over)
    assert value_of(pyrovae.load(tmp_path / "state")) == 3.0 and not saves
    # and one that has it open keeps what it has
    monkeypatch.setattr(opening, "parsed_manifest", parsed)
    read = opening.read_header

    def read_late(*args):
        entries = read(*args)
        if not saves:
            saves.append(4.0)
            pyrovae.save(tmp_path / "state", pair(4.0))
        return entries

    monkeypatch.setattr(opening, "read_header", read_late)
    assert value_of(pyrovae.load(tmp_path / "state")) == 3.0
    assert value_of(pyrovae.load(tmp_path / "state")) == 4.0


def test_a_state_that_stays_damaged_is_not_read_again_and_again(tmp_path, monkeypatch):
    folder = pyrovae.save(tmp_path / "state", pair())
    (folder / WEIGHTS).write_bytes(b"")
    reads = []
    monkeypatch.setattr(opening, "parsed_manifest", lambda *args: reads.append(0) or parsed_manifest(*args))
    with pytest.raises(CheckpointError, match=WEIGHTS):
        pyrovae.load(folder)
    assert len(reads) == 1


def test_what_is_saved_over_names_its_files_and_an_earlier_version_is_told(tmp_path):
    folder = pyrovae.save(tmp_path / "state", pair(1.0))
    assert names(folder) == [MANIFEST, WEIGHTS]  # as earlier versions write and read it
    assert json.loads((folder / MANIFEST).read_bytes())["format_version"] == 1
    inode = folder.stat().st_ino
    pyrovae.save(folder, pair(2.0))
    manifest = json.loads((folder / MANIFEST).read_bytes())
    assert manifest["format_version"] == 2 and names(folder) == [MANIFEST, manifest["files"][WEIGHTS]]
    assert NAMED.fullmatch(manifest["files"][WEIGHTS]) and folder.stat().st_ino == inode
    # its names lead nowhere else
    for files in ({}, {WEIGHTS: WEIGHTS}, {WEIGHTS: "../weights-0123456789abcdef.safetensors"}, {WEIGHTS: 3}, []):
        forged = manifest | {"files": files}
        (folder / MANIFEST).write_text(json.dumps({**forged, "sha256": manifest_digest(forged)}, indent=1))
        with pytest.raises(CheckpointError, match="does not name the files of the state"):
            pyrovae.load(folder)


def test_a_run_is_saved_over_too(tmp_path):
    vae = pair(1.0)
    for value in (1.0, 2.0, 3.0):
        write(tmp_path / "state", vae, ({"epoch": value}, {"moment": torch.full((2,), value)}))
        metadata, _, tensors = read_run(tmp_path / "state", vae)
        assert metadata["epoch"] == value and tensors["moment"].tolist() == [value, value]
    assert len(names(tmp_path / "state")) == 3
    write(tmp_path / "state", vae)  # without a run: its file goes
    assert len(names(tmp_path / "state")) == 2
    with pytest.raises(CheckpointError, match="holds a state and no run"):
        read_run(tmp_path / "state", vae)


def test_leftovers_of_earlier_versions_go_and_what_is_anothers_stays(tmp_path):
    vae = pair()
    for name, file in ((".state-new-17-123456789", WEIGHTS), (".state-old-17-123456789", MANIFEST)):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"half")
    kept = [".state-new-ideas", ".state-new-18-1", ".state-old-18-1", ".other-new-17-123456789"]
    for name, file in zip(kept, ("a.txt", "mine.txt", ".hidden", WEIGHTS), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"")
    pyrovae.save(tmp_path / "state", vae)
    assert names(tmp_path) == sorted(["state", *kept])


def test_saves_of_one_state_wait_for_one_another(tmp_path, monkeypatch):
    pyrovae.save(tmp_path / "state", pair(0.0))
    threads = [
        threading.Thread(target=lambda v=value: pyrovae.save(tmp_path / "state", pair(v))) for value in (1.0, 2.0, 3.0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value_of(pyrovae.load(tmp_path / "state")) in (1.0, 2.0, 3.0)
    assert len(names(tmp_path / "state")) == 2
    # and one that does not end is told of, by the path
    monkeypatch.setattr(replacing, "PATIENCE", 0.02)
    with replacing._alone_in(tmp_path / "state") as is_alone:
        assert is_alone
        with pytest.raises(BlockingIOError, match=rf"another process saves there .*{tmp_path / 'state'}"):
            pyrovae.save(tmp_path / "state", pair())


def test_without_locks_nothing_that_another_process_writes_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(replacing, "_locked", lambda handle: None)
    folder = pyrovae.save(tmp_path / "state", pair(1.0))
    others, long_ago = (
        ["weights-0123456789abcdef.safetensors", "weights-fedcba9876543210.safetensors"],
        time.time() - 1e6,
    )
    for name in others:
        (folder / name).write_bytes(b"half")
    os.utime(folder / others[1], (long_ago, long_ago))
    pyrovae.save(folder, pair(2.0))
    assert value_of(pyrovae.load(folder)) == 2.0
    assert others[0] in names(folder) and others[1] not in names(folder) and WEIGHTS not in names(folder)


@pytest.mark.parametrize(
    ("number", "there"), [(errno.ENOSPC, True), (errno.ENOSPC, False), (errno.EDQUOT, True), (errno.EACCES, True)]
)
def test_errors_of_the_system_name_the_path_and_lose_nothing(tmp_path, monkeypatch, number, there):
    if there:
        pyrovae.save(tmp_path / "state", pair(1.0))

    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="while the state was saved") as caught:
        pyrovae.save(tmp_path / "state", pair(2.0))
    monkeypatch.undo()
    assert caught.value.filename == str(tmp_path / "state") and caught.value.errno == number
    assert type(caught.value) is type(OSError(number, ""))  # PermissionError where it is one
    assert names(tmp_path) == (["state"] if there else [])
    if there:
        assert value_of(pyrovae.load(tmp_path / "state")) == 1.0 and len(names(tmp_path / "state")) == 2


def test_a_file_in_a_states_folder_is_named_and_not_read(tmp_path):
    folder = pyrovae.save(tmp_path / "state", pair(1.0))
    (folder / "weights (1).safetensors").write_bytes(b"a copy that a synchroniser made")
    (folder / RUN).write_bytes(b"of another state")
    with pytest.warns(UserWarning, match=r"not of the saved state, and were not read: run.safetensors, weights \(1\)"):
        assert value_of(pyrovae.load(folder)) == 1.0
    with pytest.raises(FileExistsError, match=r"is not a saved state \(it holds 'weights \(1\).safetensors'\)"):
        pyrovae.save(folder, pair(2.0))


def test_a_run_whose_folder_is_made_anew_writes_nothing_into_it(tmp_path):
    snapshots = Snapshots(tmp_path / "run", False)
    with snapshots.locked():
        snapshots.write((1, 0), pair(1.0), {"rows": [0]}, {})
        shutil.rmtree(tmp_path / "run")
        for make in (lambda: None, (tmp_path / "run").mkdir):
            make()
            with pytest.raises(
                CheckpointError, match=rf"checkpoint={tmp_path / 'run'} was removed while the run trained"
            ):
                snapshots.write((2, 0), pair(2.0), {"rows": [0]}, {})
        assert names(tmp_path / "run") == []
    with Snapshots(tmp_path / "run", False).locked():  # the control: it is another run's now
        pass


def test_a_folder_that_is_made_anew_is_another(tmp_path):
    (tmp_path / "run").mkdir()
    folder = durable.SameFolder(tmp_path / "run")
    assert folder.is_there()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert not folder.is_there()
    (tmp_path / "run").mkdir()
    assert not folder.is_there()
    (tmp_path / "run").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    assert folder.is_there()
    folder.close()


WRITER = """
    import sys, torch, pyrovae
    torch.set_num_threads(1)
    vae = pyrovae.linear_vae(30, 20)
    value = 0.0
    print("begins", flush=True)
    while True:
        value += 1.0
        with torch.no_grad():
            for p in vae.parameters():
                p.fill_(value)
        pyrovae.save(sys.argv[1], vae)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that saves over one state without end, each time with weights of another value."""
    (tmp_path / "writer.py").write_text(textwrap.dedent(WRITER))
    started = []

    def start():
        command = [sys.executable, str(tmp_path / "writer.py"), str(tmp_path / "state")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "begins\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_reader_beside_a_writer_finds_a_whole_state_each_time(tmp_path, writer):
    pyrovae.save(tmp_path / "state", pyrovae.linear_vae(30, 20))
    process = writer()
    while not (tmp_path / "state" / MANIFEST).read_bytes().count(b'"files"'):
        time.sleep(0.01)
    found = [value_of(pyrovae.load(tmp_path / "state")) for _ in range(300)]
    assert process.poll() is None and found == sorted(found) and len(set(found)) > 20


@pytest.mark.long
def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_state(tmp_path, writer):
    pyrovae.save(tmp_path / "state", pair(0.0))
    generator = torch.Generator().manual_seed(0)
    found, process, start = [], writer(), time.monotonic()
    while not (tmp_path / "state" / MANIFEST).read_bytes().count(b'"files"'):
        time.sleep(0.01)
    seconds = time.monotonic() - start  # until the first of its saves, on this machine
    for _ in range(8):
        process.send_signal(signal.SIGKILL)
        process.wait()
        found.append(value_of(pyrovae.load(tmp_path / "state")))
        process = writer()
        time.sleep(2 * seconds * float(torch.rand((), generator=generator)))
    assert max(found) > 0
    pyrovae.save(tmp_path / "state", pair())
    assert len(names(tmp_path / "state")) == 2 and names(tmp_path) == ["state", "writer.py"]

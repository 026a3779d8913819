"""What memory is left: read from files that a kernel would have written."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from pyrovae import memory


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Files of /proc and of control groups; a function that writes one."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_of_process", lambda: memory.ADDRESSES)

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("proc/meminfo", "MemTotal:  4000 kB\nMemAvailable:  3000 kB\nSwapFree:  100 kB\nHugePages_Total:  0\n")
    write("proc/self/cgroup", "0::/\n")
    return write


def test_what_the_machine_has_free(kernel):
    assert memory.available() == 3100 * 1024


def test_the_tightest_limit_of_a_container_counts_and_its_cache_of_files_does_not(kernel):
    kernel("proc/self/cgroup", "0::/outer/inner\n")
    for group, most in (("outer", "1500000"), ("outer/inner", "max")):
        kernel(f"groups/{group}/memory.max", most)
        kernel(f"groups/{group}/memory.current", "1000000")
        kernel(f"groups/{group}/memory.stat", "anon 600000\ninactive_file 200000\n")
    assert memory.available() == 1500000 - 1000000 + 200000


def test_the_older_control_groups(kernel):
    kernel("proc/self/cgroup", "5:cpu:/a\n4:memory:/not/seen/in/this/container\n0::/\n")
    kernel("groups/memory/memory.limit_in_bytes", "900000")
    kernel("groups/memory/memory.usage_in_bytes", "1000000")
    kernel("groups/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 300000\n")
    assert memory.available() == 200000
    kernel("groups/memory/memory.usage_in_bytes", "2000000")
    assert memory.available() == 0


def test_another_system_than_linux(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory._of_machine() == physical
    monkeypatch.delattr(os, "sysconf")
    assert memory._of_machine() == memory.ADDRESSES
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory._of_process() == memory.ADDRESSES == memory._of_container()


def test_the_limit_of_the_process(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**45, resource.RLIM_INFINITY))
    assert 2**44 < memory._of_process() < 2**45


def test_an_accelerators_own_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert memory.available(torch.device("cuda:0")) == 1200


def test_bytes_in_words():
    assert [memory.in_words(n) for n in (0, 999, 64e9, 8e30)] == ["0 bytes", "999 bytes", "64 GB", "8e+12 EB"]

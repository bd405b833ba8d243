"""Defaults of XLA and the compilation cache, and that what the user set stays."""

import os
import pathlib
import platform
import re
import resource
import subprocess
import sys

import pytest

from iecl_jax.run import runtime


def test_flags_that_the_user_set_stay():
    first, second = runtime.CPU_FLAGS
    name = first.partition("=")[0]
    assert runtime.with_defaults("").split() == [first, second]
    assert runtime.with_defaults(f"--some=1 {name}=").split() == ["--some=1", f"{name}=", second]
    assert runtime.with_defaults(runtime.with_defaults("")) == runtime.with_defaults("")


@pytest.mark.parametrize(
    "platforms, plugins, alone",
    [
        ("cpu", True, True),
        ("cuda,cpu", False, False),
        ("", True, False),
        ("", False, True),
    ],
)
def test_the_cpu_is_alone_if_the_user_says_so_or_nothing_else_is_installed(
    monkeypatch, platforms, plugins, alone
):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    found = object() if plugins else None
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: found)
    assert runtime.cpu_only() == alone


@pytest.mark.skipif(
    not pathlib.Path("/sys/kernel/mm/transparent_hugepage").exists()
    or platform.libc_ver()[0] != "glibc",
    reason="needs Linux with huge pages and glibc",
)
def test_the_heap_grows_in_huge_pages_and_stays():
    program = (
        "from iecl_jax.run import runtime; runtime.keep_freed_memory(); import numpy;"
        "place = numpy.ones(2**24).ctypes.data + 2**26; numpy.ones(2**24);"
        "print(place); print(open('/proc/self/smaps').read())"
    )
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    place, maps = shown.split("\n", 1)
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", maps):
        first, last = (int(number, 16) for number in entry.split(" ", 1)[0].split("-"))
        if first <= int(place) < last:
            assert "hg" in entry.partition("VmFlags:")[2].split()
            assert int(re.search(r"Rss: *(\d+) kB", entry)[1]) == pytest.approx(
                2**17, rel=0.1
            )  # of one array, although both are gone
            return
    pytest.fail("the array lies nowhere")


@pytest.mark.parametrize("variable", ["MALLOC_PERTURB_", "GLIBC_TUNABLES"])
def test_no_addresses_are_taken_that_the_user_limits_or_has_written(monkeypatch, variable):
    monkeypatch.setenv(variable, "glibc.malloc.perturb=7")
    assert not runtime._may_reserve()
    monkeypatch.delenv(variable)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**34, 2**34))
    assert not runtime._may_reserve()


def test_a_program_is_compiled_once_and_kept_in_the_cache_of_this_processor(tmp_path):
    program = (
        "from iecl_jax.run import runtime; runtime.configure(); runtime.configure(); import jax;"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0);"
        "print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64))))"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    }
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(result.stdout) == 64**3
    (folder,) = (tmp_path / "iecl_jax").iterdir()
    assert folder.name == runtime.cache_folder().name
    assert any(folder.iterdir())

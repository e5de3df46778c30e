import importlib.metadata
import sys

import numpy as np
import pytest

from foolbox_carescale import __version__
from foolbox_carescale.cli import doctor


@pytest.fixture(scope="module")
def findings():
    return dict(doctor.diagnose())


def test_versions_devices_engines_and_threads_are_told(findings):
    assert findings["foolbox-carescale"] == __version__
    assert findings["numpy"] == np.__version__
    assert "numba" in findings["numpy engine"]
    for framework in ("torch", "jax", "tensorflow"):
        if findings[framework] != "not installed":
            assert "cpu" in findings[f"{framework} devices"].lower()
            assert ": a " in findings[f"{framework} engine"]
    assert int(findings["processors"]) >= 1
    assert findings["threads of the engine"].endswith("(CARESCALE_NUM_THREADS sets them)")


def test_the_cache_is_named_and_tried(findings, monkeypatch):
    assert findings["numba cache"].endswith("__pycache__, writable")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "not writable" in doctor._cache()
    assert "set NUMBA_CACHE_DIR" in doctor._cache()


def test_an_extra_that_lacks_a_package_is_told_with_the_command_that_brings_it(
    findings, monkeypatch
):
    assert findings["extra evaluate"] == "complete"
    assert not {"extra test", "extra dev"} & set(findings)
    version = importlib.metadata.version

    def without(name):
        if name in ("hydra-core", "tensorflow", "tensorflow-cpu"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    told = dict(doctor._extras())
    assert told["extra evaluate"] == (
        "lacks hydra-core; run: pip install 'foolbox-carescale[evaluate]'"
    )
    assert "lacks tensorflow-cpu or tensorflow" in told["extra tensorflow"]
    assert told["extra torch"] == "complete"


def test_a_framework_that_cannot_be_imported_is_a_finding(monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "jax" or None)
    told = dict(doctor.diagnose())
    assert told["jax"].startswith("cannot be used: ModuleNotFoundError")
    assert not {"numba cache", "threads of the engine"} & set(told)  # nor is there numba

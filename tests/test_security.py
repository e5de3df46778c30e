"""Where the package could run foreign code, start programs or reach the network: docs/security.md.

Read off the source: every such call is in a table with its reason, and every entry of the table
is a call.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import foolbox_carescale

PACKAGE = Path(foolbox_carescale.__file__).parent

# whole names, as imported: what runs code, reads formats that can, starts programs, or connects
SENSITIVE = re.compile(
    r"eval|exec|compile|__import__|input|breakpoint"
    r"|(builtins|code|codeop|runpy|cloudpickle|dill|joblib|marshal|pickle|shelve)\..*"
    r"|importlib\.(import_module|reload)|pydoc\.locate|hydra\.utils\..*|.*\.instantiate"
    r"|(torch|numpy|pandas)\.(load|read_pickle|fromfile)|torch\.(hub|package|jit|classes)\..*"
    r"|yaml\..*load.*|omegaconf\.OmegaConf\.load|.*\.(get_state_dict|load_state_dict_from_url)"
    r"|os\.(system|popen|exec\w*|spawn\w*|posix_spawn\w*|fork\w*|startfile)"
    r"|(subprocess|pty|ctypes|webbrowser)\..*"
    r"|(socket|ssl|http|urllib|urllib3|requests|httpx|aiohttp|ftplib|smtplib|xmlrpc)\..*"
)

# (file, call): why it may
ALLOWED = {
    ("cli/doctor.py", "importlib.import_module"): "a name that stands in the source",
    ("cli/init.py", "input"): "a user's answer, which is written and not run",
    ("engines/base.py", "importlib.import_module"): "a name that stands in the source",
    ("engines/xla/__init__.py", "importlib.import_module"): "a framework's name, one of two",
    ("evaluate/__init__.py", "importlib.import_module"): "a name of its own table",
    ("training/__init__.py", "importlib.import_module"): "a name of its own table",
    ("evaluate/models/targets.py", "importlib.import_module"): "_target_, which is asked for",
    ("evaluate/models/weights.py", "torch.load"): "weights_only",
    ("training/checkpoints.py", "torch.load"): "weights_only",
    ("evaluate/verification/files.py", "torch.load"): "weights_only",
    ("evaluate/verification/files.py", "numpy.load"): "allow_pickle=False",
    ("evaluate/models/sources/torchvision.py", "torch.hub.get_dir"): "the name of a folder",
    (
        "evaluate/models/sources/torchvision.py",
        "*.get_state_dict",
    ): "weights by name, which are asked for; weights_only",
    ("evaluate/config/files.py", "omegaconf.OmegaConf.load"): "its loader is a SafeLoader",
    ("evaluate/config/types.py", "yaml.safe_load"): "safe",
    ("evaluate/runner/executors/ray.py", "socket.create_connection"): "the address of a cluster",
    ("evaluate/serialization.py", "yaml.safe_load"): "safe, and bounded",
}
NEEDED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "*.get_state_dict": ("weights_only", True),
}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Sensitive calls: the name as it was imported, or * and the method."""
    tree = ast.parse(source)
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name if alias.asname else alias.name.partition(".")[0]
                full[alias.asname or root] = root
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts, at = [], node.func
            while isinstance(at, ast.Attribute):
                parts, at = [at.attr, *parts], at.value
            if isinstance(at, ast.Name) and (at.id in full or not parts):
                parts = [full.get(at.id, at.id), *parts]
            else:
                parts = ["*", *parts[-1:]]
            name = ".".join(parts)
            if SENSITIVE.fullmatch(name):
                yield name, node


@functools.cache
def calls_of_the_package() -> list[tuple[Path, str, ast.Call]]:
    return [
        (path, *found)
        for path in PACKAGE.rglob("*.py")
        for found in calls(path.read_text(encoding="utf-8"))
    ]


def test_every_call_that_could_run_code_or_connect_is_known_with_its_reason():
    found = {
        (path.relative_to(PACKAGE).as_posix(), name) for path, name, _ in calls_of_the_package()
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(("call", "keyword"), NEEDED.items())
def test_what_reads_a_format_with_code_in_it_is_told_not_to(call, keyword):
    name, value = keyword
    count = 0
    for path, found, node in calls_of_the_package():
        if found == call:
            count += 1
            given = {k.arg: k.value for k in node.keywords}
            assert isinstance(given.get(name), ast.Constant), path
            assert given[name].value is value, path
    assert count


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import pickle as p\np.loads(b'')",
        "from pickle import loads\nloads(b'')",
        "import torch.hub\ntorch.hub.load('a', 'b')",
        "import yaml\nyaml.load('')",
        "import urllib.request\nurllib.request.urlopen('x')",
        "from os import system as run\nrun('x')",
        "thing.part.get_state_dict()",
    ],
)
def test_calls_are_recognised_by_whatever_name_they_go(source):
    assert len(list(calls(source))) == 1

"""Configs from a stranger: bounded to read, and what they may run without --allow-code."""

import json
import re
import time
from pathlib import Path

import pytest

from foolbox_carescale.cli import main
from foolbox_carescale.evaluate import (
    ExecutorConfig,
    Results,
    UserError,
    evaluate,
    load_evaluation,
    load_sweep,
)
from foolbox_carescale.evaluate.config.permissions import VARIABLES
from foolbox_carescale.evaluate.report import print_comparison
from foolbox_carescale.evaluate.serialization import DEEPEST, LARGEST, check_yaml, from_yaml
from foolbox_carescale.training.config import load_training
from tests.evaluate import synthetic
from tests.evaluate.factories import HERE, tiny

LAUGHS = "a0: &a0 [lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGES = "a0: &a0 {k: lol}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)
)
BOMBS = {
    "laughs": (LAUGHS, "characters with its aliases written out"),
    "merges": (MERGES, "characters with its aliases written out"),
    "texts": (f"a: &a {'x' * 10**5}\nb: [{'*a, ' * 1000}]\n", "characters with its aliases"),
    "nested lists": ("a: " + "[" * 3000 + "]" * 3000, "its values nest more than 32 deep"),
    "nested mappings": ("a: " + "{b: " * 3000, "its values nest more than 32 deep"),
    "nested blocks": ("- " * 3000, "its values nest more than 32 deep"),
    "an alias of itself": ("a: &a [*a]", "the alias *a names nothing that ends above it"),
    "an alias of nothing": ("a: *b", "the alias *b names nothing that ends above it"),
    "digits": (f"seed: {'9' * 5000}", "99999999999999999999... has too many digits"),
    "hexadecimal digits": (f"seed: 0x{'f' * 5000}", "has too many digits"),
    "sexagesimal digits": (f"seed: 1{':1' * 10**5}", "has too many digits"),
    "size": ("# " + "x" * LARGEST + "\nseed: 1\n", f"is larger than {LARGEST} bytes"),
    "values": (f"a: [{'1,' * 200_000}]", "characters with its aliases written out"),
    "a tag": ("seed: !!int x", "is not valid YAML at line 1, column 7: the tag tag:yaml.org"),
    "no number": ("seed: 0x_", "is not valid YAML: invalid literal for int"),
    "no text": ("seed: \x00", "is not valid YAML"),
    "no mapping": ("5", "is not valid YAML: Invalid loaded object type: int"),
}


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def bounded():
    """Seconds that no bomb takes; those that are not defused fill the memory first."""
    began = time.perf_counter()
    yield
    assert time.perf_counter() - began < 30


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", BOMBS)
def test_a_file_a_group_and_a_run_folder_that_would_explode_are_one_line(tmp_path, name):
    text, line = BOMBS[name]
    with pytest.raises(UserError) as caught:
        load_evaluation(written(tmp_path / "run.yaml", text))
    assert line in str(caught.value)
    assert "run.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    written(tmp_path / "model" / "bad.yaml", text)
    for load in (load_evaluation, load_training) if name == "laughs" else (load_evaluation,):
        with pytest.raises(UserError) as caught:
            load(written(tmp_path / "run.yaml", "defaults: [{model: bad}]\n"))
        assert "\n" not in str(caught.value)
    if name in ("no mapping", "size"):
        return
    results = synthetic.run(tmp_path / "folder", config=text)
    with pytest.raises(UserError, match=r"config\.yaml: is damaged") as caught:
        print_comparison([results, results], None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_an_override_that_nests_too_deeply_is_one_line(capsys, command):
    assert main([command, f"model.params.a={'[' * 3000}{']' * 3000}"]) == 2
    error = capsys.readouterr().err
    assert "is too long or too deep" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "files",
    [
        {"run": "defaults: [run]"},
        {"run": "defaults: [other]", "other": "defaults: [run]"},
        {"run": "defaults: [{model: me}]", "model/me": "defaults: [me]"},
    ],
)
def test_defaults_that_include_themselves_are_one_line(tmp_path, files):
    for name, text in files.items():
        written(tmp_path / f"{name}.yaml", text)
    with pytest.raises(UserError, match="include themselves") as caught:
        load_evaluation(tmp_path / "run.yaml")
    assert "\n" not in str(caught.value)


def test_values_that_refer_to_themselves_are_one_line(tmp_path):
    for text in ("seed: ${seed}", "seed: ${samples}\nsamples: ${seed}"):
        with pytest.raises(UserError) as caught:
            load_evaluation(written(tmp_path / "run.yaml", text))
        assert "\n" not in str(caught.value)


def echo(first, line, reference):
    """Eleven values, each of which repeats the one before it nine times."""
    lines = [line.format(n=n, nine=[reference.format(n - 1)] * 9) for n in range(1, 12)]
    return "\n".join([f"a0: {first}", *lines])


ECHOES = [
    echo("lol", 'a{n}: "{nine}"', "${{model.params.a{}}}"),
    echo("lol", 'a{n}: "{nine}"', "${{.a{}}}"),
    echo("[lol]", "a{n}: {nine}", "${{model.params.a{}}}"),
    echo("[lol]", "a{n}: {nine}", "${{model.params.a{}.0}}"),
    f"a0: {'x' * 10**5}\na1: {'${model.params.a0}' * 10**4}\n",
    "a0: ${oc.create:'[1, 2]'}\n",
]


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("echoes", ECHOES)
def test_values_that_repeat_what_repeats_others_are_one_line(tmp_path, echoes):
    lines = "".join(f"    {line}\n" for line in echoes.splitlines())
    with pytest.raises(UserError, match=r"are too many|is not available") as caught:
        load_evaluation(written(tmp_path / "run.yaml", f"model:\n  params:\n{lines}"))
    assert "\n" not in str(caught.value)


def test_values_that_a_person_takes_from_others_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    text = (
        "data: {root: '${oc.env:DATA}/sets', index: '${data.root}/index.txt'}\n"
        "output: runs/${model.name}-${seed}\nseed: 3\nmodel: {name: resnet18}\n"
    )
    evaluation = load_evaluation(written(tmp_path / "run.yaml", text))
    assert evaluation.data.index == "/data/sets/index.txt"
    assert evaluation.output == "runs/resnet18-3"


def test_aliases_that_a_person_writes_are_read(tmp_path):
    text = (
        "attacks:\n  a: &a {name: L2PGD, steps: 3}\n  b: {<<: *a, steps: 4}\n  c: *a\n"
        "epsilons: {L2: &e [1, 2], L1: *e}\n"
    )
    evaluation = load_evaluation(written(tmp_path / "run.yaml", text))
    assert [attack.params["steps"] for attack in evaluation.attacks.values()] == [3, 4, 3]
    assert evaluation.epsilons["L1"] == [1, 2]
    assert from_yaml(text)["attacks"]["c"] == {"name": "L2PGD", "steps": 3}


def test_what_is_just_inside_the_limits_is_read(tmp_path):
    deep = f"model: {{params: {{a: {'[' * (DEEPEST - 3)}{']' * (DEEPEST - 3)}}}}}"
    assert load_evaluation(written(tmp_path / "run.yaml", deep)).model.params["a"]
    check_yaml(f"a: '{'9' * 5000}'")


REFUSED = [
    ("executor: {runtime_env: {py_executable: sh}}", "executor.runtime_env.py_executable: keys"),
    ("executor: {runtime_env: {container: {image: x}}}", "executor.runtime_env.container: keys"),
    ("executor: {runtime_env: {pip: 'reqs.txt'}}", "'reqs.txt' is not a list of requirements by"),
    ("executor: {runtime_env: {pip: {packages: [a]}}}", "is not a list of requirements by name"),
    ("executor: {runtime_env: {pip: 5}}", "5 is not a list of requirements by name"),
    ("executor: {runtime_env: {working_dir: 'https://h/x.zip'}}", "https://h/x.zip is not a local"),
    ("executor: {runtime_env: {working_dir: x.ZIP}}", "x.ZIP is not a local folder"),
    ("executor: {runtime_env: {py_modules: [a, 's3://x']}}", "s3://x is not a local folder"),
    ("executor: {runtime_env: {py_modules: [a, x.whl]}}", "x.whl is not a local folder"),
    ("executor: {runtime_env: {env_vars: LD_PRELOAD}}", "LD_PRELOAD is not a variable that docs"),
    ("executor: {runtime_env: {env_vars: 5}}", "5 is not a variable that docs"),
    ("executor: {address: 'ray://h:10001'}", "executor.address: ray://h:10001 is a server"),
    ("executor: {address: 'my_module://h'}", "executor.address: my_module://h is a server"),
]


@pytest.mark.parametrize(("text", "line"), REFUSED)
def test_a_file_that_can_run_any_program_needs_allow_code(tmp_path, text, line):
    path = written(tmp_path / "run.yaml", text)
    for load in (load_evaluation, load_sweep) if text == REFUSED[0][0] else (load_evaluation,):
        with pytest.raises(UserError) as caught:
            load(path, [])
        assert line in str(caught.value)
        assert "can run any program; add --allow-code" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert load(path, [], allow_code=True)
    assert load_evaluation(path, allow_code=True).executor != ExecutorConfig()


def test_what_a_file_sweeps_is_not_what_the_command_line_sets(tmp_path):
    path = written(tmp_path / "run.yaml", "sweep: {executor.address: ['ray://h:1']}")
    with pytest.raises(UserError, match=r"executor\.address: ray://h:1 is a server"):
        load_sweep(path, [])
    assert load_sweep(path, ["sweep.executor.address=['ray://h:1']"])


@pytest.mark.parametrize(
    "package",
    [
        "x @ git+https://h/x", "x @ file:///x", "--index-url=h", "./x", "x===../y", "x=== --pre",
        "x-1.0.tar.gz", "x-1.0-py3-none-any.whl", "x.ZIP[y]", "x==1+y.tgz", "x==1\n-r y.txt",
        "x>=1 --config-settings=y", "x; python_version < '3 -r y.txt'", "x[ -r y ]", "x # y",
    ],
)  # fmt: skip
def test_pip_takes_no_option_file_or_url_without_allow_code(tmp_path, package):
    environment = json.dumps({"executor": {"runtime_env": {"pip": ["timm", package]}}})
    path = written(tmp_path / "run.yaml", environment)
    with pytest.raises(UserError, match="is not a list of requirements by name") as caught:
        load_evaluation(path)
    assert "\n" not in str(caught.value)
    load_evaluation(path, allow_code=True)


@pytest.mark.parametrize(
    "variable",
    [
        "LD_PRELOAD", "PATH", "PYTHONPATH", "PIP_INDEX_URL", "RAY_X", "HOME", "NUMBA_CACHE_DIR",
        "OPENSSL_CONF", "MPLBACKEND", "TRITON_CACHE_DIR", "HTTPS_PROXY", "omp_num_threads",
    ],
)  # fmt: skip
def test_a_variable_that_is_not_known_to_be_harmless_needs_allow_code(tmp_path, variable):
    text = f"executor: {{runtime_env: {{env_vars: {{OMP_NUM_THREADS: '1', {variable}: x}}}}}}"
    path = written(tmp_path / "run.yaml", text)
    with pytest.raises(UserError, match=f"{variable} is not a variable that docs/security.md"):
        load_evaluation(path)
    load_evaluation(path, allow_code=True)


def test_the_variables_that_need_no_allow_code_are_those_of_the_document():
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| `env_vars` other than")]
    assert {*re.findall(r"`([A-Z_]+)`", line)} == {*VARIABLES}


def test_a_file_may_copy_folders_and_install_by_name(tmp_path):
    text = (
        "{working_dir: ., py_modules: [mine.py], pip: [timm, 'scipy >= 1.11', 'a[b,c]==1.0'],"
        " env_vars: {OMP_NUM_THREADS: '1'}}"
    )
    path = written(tmp_path / "run.yaml", f"executor: {{address: auto, runtime_env: {text}}}")
    environment = load_evaluation(path).executor.runtime_env
    assert list(environment) == ["working_dir", "py_modules", "pip", "env_vars"]


def test_an_address_on_the_command_line_is_the_users_own(tmp_path):
    path = written(tmp_path / "run.yaml", "executor: {address: 'ray://theirs:10001'}")
    evaluation = load_evaluation(path, ["executor.address=ray://mine:10001"])
    assert evaluation.executor.address == "ray://mine:10001"


SERVERS = ["https://h", "mysql://u@h/d", "//h/d", "https://${oc.env:SECRET}.h", "${oc.env:NO,//h}"]


@pytest.mark.parametrize("uri", SERVERS)
def test_a_file_sends_no_environment_variable_to_a_server_that_it_names(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("SECRET", "s3cret")
    text = "output: ${oc.env:SECRET}\ntracking: {name: mlflow, uri: '%s', run_name: a}\n"
    path = written(tmp_path / "run.yaml", text % uri)
    with pytest.raises(UserError, match=r"output: \$\{oc.env:SECRET\} would be sent to") as caught:
        load_evaluation(path)
    assert "add --allow-code" in str(caught.value)
    assert load_evaluation(path, allow_code=True).output == "s3cret"
    mine = ["tracking.uri=https://mine"]
    assert load_evaluation(path, mine).tracking.uri == "https://mine"


HIDDEN = [
    "{experiment: env, run_name: '${oc.${tracking.experiment}:SECRET}'}",
    "{experiment: oc, run_name: '${${.experiment}.env:SECRET}'}",
    "{experiment: en, run_name: '${oc.decode:\"\\${oc.${.experiment}v:SECRET}\"}'}",
    "{experiment: create, run_name: '${oc.${tracking.experiment}:[1,2]}'}",
    "{run_name: '${oc.select:tracking.uri}'}",
]


@pytest.mark.parametrize("tracking", HIDDEN)
def test_a_reference_that_hides_what_it_reads_is_refused(tmp_path, monkeypatch, tracking):
    monkeypatch.setenv("SECRET", "s3cret")
    path = written(tmp_path / "run.yaml", f"tracking: {tracking}\n")
    with pytest.raises(UserError, match=r"tracking\.run_name: .* is not available; .* takes a key"):
        load_evaluation(path, allow_code=True)


def test_a_file_may_take_its_server_from_the_environment_or_store_on_disk(tmp_path, monkeypatch):
    for uri in ("https://mine", "sqlite:///a.db", "file:///a", "runs/mlflow"):
        monkeypatch.setenv("MINE", uri)
        text = "output: ${oc.env:MINE}\ntracking: {name: mlflow, uri: '%s'}\n"
        path = written(tmp_path / "run.yaml", text % "${oc.env:MINE}")
        assert load_evaluation(path).tracking.uri == uri
        if not uri.startswith("https"):
            path = written(tmp_path / "run.yaml", text % uri)
            assert load_evaluation(path).tracking.uri == uri
    path = written(tmp_path / "run.yaml", "tracking: {name: mlflow, uri: 'https://h'}")
    assert load_evaluation(path).tracking.uri == "https://h"


def test_a_group_beside_the_file_is_as_much_a_file_as_it_is(tmp_path):
    written(tmp_path / "executor" / "mine.yaml", "name: ray\naddress: 'ray://h:10001'\n")
    path = written(tmp_path / "run.yaml", "seed: 1")
    with pytest.raises(UserError, match="ray://h:10001 is a server"):
        load_evaluation(path, ["executor=mine"])


@pytest.mark.parametrize("record", ["run.json", "train.json"])
def test_a_config_inside_a_run_folder_needs_allow_code_for_a_target(tmp_path, capsys, record):
    path = written(tmp_path / "config.yaml", f"model: {{_target_: {HERE}.model}}\n")
    assert load_evaluation(path).model._target_
    written(tmp_path / record, "{}")
    link = tmp_path / "elsewhere" / "link.yaml"
    link.parent.mkdir()
    link.symlink_to(path)
    for command in ("evaluate", "train"):
        for file in (path, link):
            assert main([command, str(file), "--print-config"]) == 2
            error = capsys.readouterr().err
            assert "model._target_: 'tests.evaluate.factories.model' is what the config" in error
            assert error.count("\n") == 1
    assert main(["evaluate", str(path), "--print-config", "--allow-code"]) == 0
    assert main(["train", str(path), "--print-config", "--allow-code"]) == 0
    given = ["model._target_=mine.model"]
    assert load_evaluation(path, given).model._target_ == "mine.model"


@pytest.mark.parametrize(
    "text",
    [
        "data: {_target_: os.system, command: x}",
        "attacks: {a: {_target_: os.system}}",
        "defaults: [{model: theirs}]",
        "executor: {runtime_env: {working_dir: .}}",
    ],
)
def test_no_part_of_a_config_inside_a_run_folder_runs_code(tmp_path, text):
    written(tmp_path / "model" / "theirs.yaml", "_target_: os.system\n")
    path = written(tmp_path / "config.yaml", text)
    written(tmp_path / "run.json", "{}")
    with pytest.raises(UserError, match="config of a run folder says"):
        load_evaluation(path)
    load_evaluation(path, allow_code=True)


@pytest.mark.usefixtures("without_figures")
def test_a_run_folder_is_reported_and_resumed_without_allow_code(tmp_path, capsys):
    evaluate(tiny(tmp_path / "run"))
    assert main(["report", str(tmp_path / "run")]) == 0
    assert main(["compare", str(tmp_path / "run"), str(tmp_path / "run")]) == 0
    evaluate(tiny(tmp_path / "run"))
    capsys.readouterr()
    again = ["evaluate", str(tmp_path / "run" / "config.yaml"), f"output={tmp_path / 'run'}"]
    assert main(again) == 2
    assert main([*again, "--allow-code"]) == 0
    assert Results.load(tmp_path / "run").complete

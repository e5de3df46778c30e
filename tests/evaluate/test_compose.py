import math
from pathlib import Path

import pytest

from foolbox_carescale.evaluate import (
    AttackConfig,
    Evaluation,
    ModelConfig,
    UserError,
    evaluate,
    load_evaluation,
    load_sweep,
)
from foolbox_carescale.evaluate.config.compose import options
from foolbox_carescale.evaluate.config.types import EVALUATION
from foolbox_carescale.evaluate.config.validation import expand_path
from foolbox_carescale.training.config import load_training


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_the_run_is_the_python_default():
    assert load_evaluation() == Evaluation()


def test_a_file_changes_what_it_names_and_overrides_have_the_last_word(tmp_path):
    path = written(tmp_path, "model: {name: resnet18, weights: null}\nseed: 3\nsamples: 7\n")
    evaluation = load_evaluation(path, ["model.name=resnet34", "seed=4"])
    assert evaluation.model.name == "resnet34"
    assert evaluation.model.weights is None
    assert (evaluation.seed, evaluation.samples) == (4, 7)
    assert evaluation.attacks == Evaluation().attacks


def test_attacks_of_a_file_replace_the_default_ones(tmp_path):
    text = "attacks: {mine: {name: L2PGD, steps: 3, epsilons: [1, 2]}}"
    evaluation = load_evaluation(written(tmp_path, text))
    assert evaluation.attacks == {
        "mine": AttackConfig("L2PGD", epsilons=[1.0, 2.0], params={"steps": 3})
    }


def test_arguments_of_an_attack_stand_beside_its_name():
    evaluation = load_evaluation(None, ["attacks.foolbox_l2_pgd.steps=3"])
    assert evaluation.attacks["foolbox_l2_pgd"].params == {"steps": 3}


def test_an_override_adds_an_attack_and_removes_one():
    evaluation = load_evaluation(
        None,
        ["attacks.new.name=LinfPGD", "attacks.new.steps=2", "~attacks.foolbox_l2_pgd"],
    )
    assert evaluation.attacks["new"] == AttackConfig("LinfPGD", params={"steps": 2})
    assert "foolbox_l2_pgd" not in evaluation.attacks


def test_all_attacks_so_far_can_be_replaced_on_the_command_line():
    evaluation = load_evaluation(None, ["~attacks", "attacks.mine.name=L2PGD"])
    assert evaluation.attacks == {"mine": AttackConfig("L2PGD")}
    with pytest.raises(UserError, match="attacks: there is none"):
        load_evaluation(None, ["~attacks"])


def test_epsilons_are_fractions_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epsilons: {Linf: [1/255, 8/255, '0.1']}")
    assert load_evaluation(path).epsilons["Linf"] == [1 / 255, 8 / 255, 0.1]
    by_override = load_evaluation(None, ["epsilons.Linf=[4/255,8/255]"])
    assert by_override.epsilons["Linf"] == [4 / 255, 8 / 255]
    assert Evaluation(epsilons={"L2": ["1/3"]}).validated().epsilons == {"L2": [1 / 3]}


def test_epsilons_of_one_norm_leave_the_others(tmp_path):
    evaluation = load_evaluation(None, ["epsilons.L2=[1,2]"])
    assert evaluation.epsilons == {**Evaluation().epsilons, "L2": [1.0, 2.0]}


def test_a_target_of_ones_own_takes_arguments_beside_it():
    evaluation = load_evaluation(None, ["model._target_=my.model", "model.width=3"])
    assert evaluation.model._target_ == "my.model"
    assert evaluation.model.params == {"width": 3}


def test_an_attack_of_ones_own_reads_back_as_it_was(tmp_path):
    overrides = ["~attacks", "attacks.mine._target_=my.attack", "attacks.mine.width=3"]
    evaluation = load_evaluation(None, overrides)
    mine = AttackConfig("my.attack", params={"width": 3}, _target_="my.attack")
    assert evaluation.attacks == {"mine": mine}
    assert load_evaluation(written(tmp_path, evaluation.to_yaml())) == evaluation


def test_groups_beside_the_file_can_be_composed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "small.yaml").write_text("name: resnet18\n", encoding="utf-8")
    path = written(tmp_path, "defaults: [{model: small}]\nseed: 5\n")
    evaluation = load_evaluation(path)
    assert (evaluation.model.name, evaluation.seed) == ("resnet18", 5)
    (tmp_path / "model" / "small.yaml").write_text("name: resnet34\n", encoding="utf-8")
    assert load_evaluation(path).model.name == "resnet34"  # a file that has changed


def test_every_group_that_ships_makes_a_run():
    # one of each group at a time
    every = {group: options(group) for group in EVALUATION.groups}
    for i in range(max(map(len, every.values()))):
        load_evaluation(None, [f"{group}={some[i % len(some)]}" for group, some in every.items()])


def test_groups_are_chosen_on_the_command_line_and_then_overridden(tmp_path):
    overrides = ["data=folder", f"data.root={tmp_path}", "attack=noise", "tracking=mlflow"]
    evaluation = load_evaluation(None, overrides)
    assert (evaluation.data.name, evaluation.data.root) == ("folder", str(tmp_path))
    assert evaluation.tracking.name == "mlflow"
    assert evaluation.attacks["l2_gaussian"].params == {"p": 2.0}
    assert "clip_aware_l2_pgd" not in evaluation.attacks


def test_groups_that_ship_are_named_in_a_files_defaults_list(tmp_path):
    text = "defaults: [{data: imagenet_samples}, {attack: pgd}]\nattacks: {l2_pgd: {steps: 3}}\n"
    evaluation = load_evaluation(written(tmp_path, text))
    assert evaluation.data.name == "foolbox/imagenet"
    assert list(evaluation.attacks) == ["l1_pgd", "l2_pgd", "linf_pgd"]
    assert evaluation.attacks["l2_pgd"] == AttackConfig("L2ClipAwarePGD", params={"steps": 3})


def test_a_group_on_the_command_line_replaces_what_the_file_says(tmp_path):
    text = "model: {_target_: my.model, width: 3}\nattacks: {mine: {name: L2PGD}}\n"
    path = written(tmp_path, text)
    evaluation = load_evaluation(path, ["model=resnet18", "attack=noise"])
    assert evaluation.model == ModelConfig("resnet18")
    assert "mine" not in evaluation.attacks


def test_a_file_that_another_one_builds_on_keeps_its_attacks(tmp_path):
    (tmp_path / "base.yaml").write_text("attacks: {a: {name: L2PGD, steps: 3}}", encoding="utf-8")
    evaluation = load_evaluation(written(tmp_path, "defaults: [base]\nseed: 5\n"))
    assert evaluation.attacks == {"a": AttackConfig("L2PGD", params={"steps": 3})}


def test_attacks_of_a_group_beside_the_file_replace_the_default_ones(tmp_path):
    (tmp_path / "data").mkdir()
    text = "# @package _global_\nattacks: {a: {name: L2PGD}}\n"
    (tmp_path / "data" / "digits.yaml").write_text(text, encoding="utf-8")
    assert list(load_evaluation(written(tmp_path, "seed: 5\n")).attacks) == ["a"]


def test_a_folder_beside_the_file_is_not_one_of_this_package_of_the_same_name(tmp_path):
    path = written(tmp_path, "defaults: [conf/attack/pgd]\n")
    with pytest.raises(UserError, match="conf/attack/pgd"):
        load_evaluation(path)
    (tmp_path / "conf" / "attack").mkdir(parents=True)
    text = "# @package _global_\nattacks: {mine: {name: L2PGD}}\n"
    (tmp_path / "conf" / "attack" / "pgd.yaml").write_text(text, encoding="utf-8")
    assert list(load_evaluation(path).attacks) == ["mine"]


def test_a_tag_that_would_run_code_is_refused_in_files_and_groups(tmp_path):
    payload = f"name: !!python/object/apply:os.mkdir [{tmp_path / 'ran'}]\n"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "bad.yaml").write_text(payload, encoding="utf-8")
    for text, at in (
        (f"model:\n  {payload}", "run.yaml"),
        ("defaults: [{model: bad}]", "bad.yaml"),
    ):
        with pytest.raises(UserError, match=rf"{at}: is not valid YAML at line"):
            load_evaluation(written(tmp_path, text))
    assert not (tmp_path / "ran").exists()


def test_hydras_own_search_path_is_not_the_configs_to_set(tmp_path):
    for overrides in (["hydra.searchpath=[pkg://this]"], ["+hydra.verbose=true"]):
        with pytest.raises(UserError, match="hydra: there is no such key"):
            load_evaluation(None, overrides)
    with pytest.raises(UserError, match="there is no key 'hydra'"):
        load_evaluation(written(tmp_path, "hydra: {searchpath: [pkg://this]}"))
    (tmp_path / "model").mkdir()
    text = "# @package _global_\nhydra: {searchpath: [pkg://this]}\n"
    (tmp_path / "model" / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"hydra\.searchpath is only supported"):
        load_evaluation(written(tmp_path, "defaults: [{model: bad}]"))


def test_a_sweep_is_every_combination_each_in_its_own_folder(tmp_path):
    overrides = ["model=digits,resnet18", f"output={tmp_path}", "seed=range(2)", "samples=3"]
    runs = load_sweep(None, overrides)
    assert [(run.model.name, run.seed, run.samples) for run in runs] == [
        ("shufflenet_v2_x0_5", 0, 3),
        ("shufflenet_v2_x0_5", 1, 3),
        ("resnet18", 0, 3),
        ("resnet18", 1, 3),
    ]
    assert runs[3].output == str(tmp_path / "model=resnet18,seed=1")
    more = load_sweep(None, [*overrides[:2], "seed=range(3)", "samples=3"])
    assert {run.output for run in runs} < {run.output for run in more}


def test_lists_of_a_sweep_are_zipped_and_combined_with_other_values(tmp_path):
    text = """
    sweep:
      model: [digits, resnet18, resnet18]
      model.weights: [bundled, w.pt, null]
      epsilons.Linf: [[1/255], [2/255], [3/255, 0.5]]
    output: runs
    """
    path = written(tmp_path, text)
    runs = load_sweep(path, ["seed=0,1"])
    assert [(run.model.name, run.model.weights, run.seed) for run in runs] == [
        ("shufflenet_v2_x0_5", "bundled", 0),
        ("shufflenet_v2_x0_5", "bundled", 1),
        ("resnet18", "w.pt", 0),
        ("resnet18", "w.pt", 1),
        ("resnet18", None, 0),
        ("resnet18", None, 1),
    ]
    assert runs[5].epsilons["Linf"] == [3 / 255, 0.5]
    assert len({run.output for run in runs}) == 6
    assert all(run.output.startswith("runs/model=") for run in runs)
    # the command line replaces a list, and needs no file
    runs = load_sweep(path, ["sweep.model.weights=[null,null,'a b.pt']"])
    assert [run.model.weights for run in runs] == [None, None, "a b.pt"]
    runs = load_sweep(None, ["sweep.model=[resnet18,swin_t]", "sweep.model.weights=[a.pt,b/c.pt]"])
    assert [(run.model.name, run.model.weights) for run in runs] == [
        ("resnet18", "a.pt"),
        ("swin_t", "b/c.pt"),
    ]


@pytest.mark.parametrize(
    ("text", "overrides", "line"),
    [
        ("sweep: {seed: [0, 1], samples: [3]}", [], "seed has 2, samples has 1; give each as many"),
        ("sweep: {seed: 0}", [], "sweep.seed: 0 is no list of values; write one for each"),
        ("sweep: [seed]", [], "sweep: .'seed'. is not a mapping; write keys with lists"),
        ("sweep: {sede: [0, 1]}", [], "sede: there is no such key; did you mean 'seed'"),
        ("sweep: {output: [a, b]}", [], "sweep.output: give one folder"),
        ("sweep: {seed: [0, 1]}", ["seed=3"], "sweep.seed: seed is set beside it; leave one"),
        (
            "sweep: {model: [{name: a}]}",
            [],
            "sweep.model: {'name': 'a'} is no number, text or list",
        ),
        ("seed: 0", ["sweep.seed=1"], "sweep.seed: 1 is no list"),
        ("seed: 0", ["sweep=[0,1]"], "sweep: holds lists by key; .* sweep.seed="),
    ],
)
def test_lists_of_a_sweep_that_cannot_be_zipped_are_one_line(tmp_path, text, overrides, line):
    with pytest.raises(UserError, match=line):
        load_sweep(written(tmp_path, text), overrides)


def test_a_file_with_a_sweep_is_not_taken_for_one_run(tmp_path):
    with pytest.raises(UserError, match="several runs; take load_sweep"):
        load_evaluation(written(tmp_path, "sweep: {seed: [0, 1]}"))


def test_values_that_no_folder_can_be_named_for_get_folders_that_differ(tmp_path):
    long = "x" * 200
    runs = load_sweep(None, [f"data.root=/a/b,/a_b,{long}y,{long}z", f"output={tmp_path}"])
    names = {run.output.removeprefix(f"{tmp_path}/") for run in runs}
    assert len(names) == 4
    assert all(len(name) <= 100 and "/" not in name for name in names)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=interval(0,1)", "has no values to list; write them, as 0,1"),
        ("seed=range(0,5,0)", "has no values to list"),
        ("seed=range(0,5,0.0)", "has no values to list"),
        ("seed=range(0,nan)", "has no values to list"),
        ("seed=range(5,0)", "has no values to list"),
        ("model=glob(*)", "has no values to list"),
        ("seed=range(0,10000000000)", "the sweep holds more than 10000 runs; give fewer values"),
        ("seed=shuffle(range(0,10000000000))", "more than 10000 runs"),
        ("seed=range(1,2,1e-9)", "more than 10000 runs"),
        ("seed=range(0,inf)", "more than 10000 runs"),
        ("seed=0,0", "holds a run twice"),
        ("output=a,b", "give one folder"),
        ("sede=0,1", "did you mean 'seed'"),
        ("seed=0,x", "'x' is not a valid integer"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_one_line(override, line):
    with pytest.raises(UserError, match=line):
        load_sweep(None, [override])


def test_a_sweep_of_too_many_combinations_is_one_line():
    with pytest.raises(UserError, match="more than 10000 runs"):
        load_sweep(None, ["seed=range(101)", "samples=range(1,101)"])


def test_what_is_wrong_is_one_line_under_a_debugger_too(monkeypatch):
    monkeypatch.setenv("OC_CAUSE", "1")  # which OmegaConf assumes where anything traces the program
    with pytest.raises(UserError, match="'x' is not a valid integer"):
        load_evaluation(None, ["seed=x"])


def test_the_resolved_config_reads_back_as_the_same_run(tmp_path):
    evaluation = load_evaluation(
        None, ["attacks.new.name=L2PGD", "attacks.new.steps=2", "data.params.a=1", "seed=9"]
    )
    evaluation.attacks["clip_aware_linf_noise"].params = {"p": math.inf}
    assert load_evaluation(written(tmp_path, evaluation.to_yaml())) == evaluation


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("defaults: [{data: foldr}]", "data: there is no 'foldr'; did you mean 'folder'"),
        ("data: {name: folder}\nattack: pgd", "choose a file of the group attack in the defaults"),
        ("modle: {}", "run.yaml: there is no key 'modle'; did you mean 'model'?"),
        ("model: {nme: x}", "model.nme: there is no such key; did you mean 'name'?"),
        ("model: {name: x\nseed: 1", "run.yaml: is not valid YAML at line 2"),
        ("seed: 0\nseed: 1", "found duplicate key seed"),
        ("- 1", "run.yaml: holds a list"),
        ("seed: many", "seed: 'many' is not a valid integer"),
        ("seed: ???", "seed: Missing mandatory value"),
        ("epsilons: [1]", "epsilons: [1] is not a mapping"),
        ("epsilons: {L2: 0.5}", "epsilons.L2: 0.5 is not a list; write [0.5]"),
        ("epsilons: {Linfty: [0.5]}", "'Linfty' is not a norm; did you mean 'Linf'?"),
        ("attacks: {a: L2PGD}", "attacks.a: 'L2PGD' is not a mapping"),
        (
            "attacks: {a: {steps: 2}}",
            "attacks: 'a' has no name; give one, e.g. attacks.a.name",
        ),
        ("attacks: {a/b: {name: L2PGD}}", "the label 'a/b' is not made of"),
        ("attacks: {}", "attacks: there is none"),
        ('attacks: {a: {_target_: x.y, name: "\\udcff"}}', "attacks.a.name: '\\udcff' holds"),
        ('attacks: {a: {_target_: x.y, name: "\\e[2J"}}', "attacks.a.name: '\\x1b[2J' holds"),
        ("seed: ${nowhere}", "seed: Interpolation key 'nowhere' not found"),
        ("defaults: [nowhere]", "Could not load 'nowhere'"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, text, line):
    with pytest.raises(UserError) as caught:
        load_evaluation(written(tmp_path, text))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ("1", "1"),
        ("[a]", r"\['a'\]"),
        ("1.5", "1.5"),
        ("true", "True"),
        ("null", "None"),
        ("{}", "{}"),
        ("''", "''"),
        ("{model: digits, data: digits}", "{'model': 'digits', 'data': 'digits'}"),
        ("{1: digits}", "{1: 'digits'}"),
        ("{model: 1}", "{'model': 1}"),
        ("{model: _self_}", "{'model': '_self_'}"),
        ("{'override ': digits}", "{'override ': 'digits'}"),
    ],
)
def test_an_entry_of_a_defaults_list_that_means_nothing_is_one_line(tmp_path, entry, shown):
    group = tmp_path / "model" / "mine.yaml"
    group.parent.mkdir()
    path = written(tmp_path, f"defaults: [{entry}]")
    line = f"defaults: {shown} is neither a file nor one group with its choice; write "
    for load in (load_evaluation, load_training):
        with pytest.raises(UserError, match=f"run.yaml: {line}"):
            load(path)
    group.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match=f"mine.yaml: {line}"):
        load_evaluation(written(tmp_path, "defaults: [{model: mine}]"))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("modle.name=resnet18", "modle: there is no such key; did you mean 'model'?"),
        ("model.nme=resnet18", "model.nme: there is no such key; did you mean 'name'?"),
        ("model.str=resnet18", "model.str: there is no such key; did you mean 'std'?"),
        ("model.params=3", "model.params: 3 is not a valid mapping"),
        ("attacks.foolbox_l2_pgd.params=3", "foolbox_l2_pgd.params: 3 is not a valid mapping"),
        ("data.classes=[{a:1}]", "data.classes.0: {'a': 1} is not a valid integer"),
        ("seed=true", "seed: True is not a number"),
        ("model=resnet81", "model: there is no 'resnet81'; did you mean 'resnet18'"),
        ("data=/", "data: '/' is a folder; write data=folder data.root=/"),
        ("model=null", "model: None is not the name of a config; valid: 'convnext_tiny'"),
        ("data=foldr", "data: there is no 'foldr'; did you mean 'folder'"),
        ("tracking=mlflwo", "tracking: there is no 'mlflwo'; did you mean 'mlflow'"),
        ("tracking.name=mlflwo", "tracking.name: there is no 'mlflwo'; did you mean 'mlflow'"),
        ("executor.cpus=many", "executor.cpus: 'many' is not a valid number"),
        ("seed=0,1", "seed=0,1: holds several values; add --multirun"),
        ("model.mean=3", "model.mean: 3 is not a list; write [3]"),
        ("model.mean=[]", "model.mean: the list is empty; give a number for each channel"),
        ("model.std=[]", "model.std: the list is empty; give a number for each channel"),
        ("model.mean=[nan,0,0]", "model.mean.0: nan is not a finite number"),
        ("model.mean=[1e400,0,0]", "model.mean.0: inf is not a finite number"),
        ("model.std=[1,1,inf]", "model.std.2: inf is not a finite number"),
        ("model.std=[1,0,1]", "model.std.1: 0 is not greater than 0"),
        ("model.std=[-1,1,1]", "model.std.0: -1 is not greater than 0"),
        ("data.interpolation=cubic", "there is no 'cubic'; did you mean 'bicubic'"),
        ("data.resize=5", "data.resize: 5 is smaller than data.size"),
        ("model.dtype=float8", "model.dtype: there is no 'float8'"),
        ("epsilons.L1.5=[1]", "epsilons.L1.5: write this norm into a YAML file"),
        ("sede=1", "sede: there is no such key; did you mean 'seed'?"),
        ("seed=abc", "seed: 'abc' is not a valid integer"),
        ("seed=-1", "seed: -1 is less than 0"),
        (f"seed={2**64}", f"seed: {2**64} is not less than {2**63}"),
        ("data.seed=-1", "data.seed: -1 is less than 0"),
        (f"samples={'9' * 5000}", "is too long or too deep"),
        ("executor.runtime_env.py_executable=sh", "can run any program; add --allow-code"),
        ("threads=100000", "threads: 100000 is not less than or equal to 1024"),
        ("shard=0/" + "9" * 5000, "is not i/n; write 0/4"),
        ("samples=0", "samples: 0 is less than 1"),
        ("data.size=-5", "data.size: -5 is less than 1"),
        ("epsilons.L2=[-0.5]", "epsilons.L2.0: -0.5 is not greater than 0"),
        ("epsilons.L2=[.inf]", "epsilons.L2.0: '.inf' is no number"),
        ("epsilons.L2=[8/0]", "epsilons.L2.0: '8/0' is no number; give one such as 0.1 or 8/255"),
        ("epsilons.L2=[8/255/2]", "epsilons.L2.0: '8/255/2' is no number"),
        ("epsilons.L2=[inf]", "epsilons.L2.0: inf is not a finite number"),
        ("epsilons.L2=0.5", "epsilons.L2: 0.5 is not a list; write [0.5]"),
        ("epsilons.L2=[]", "epsilons.L2: the list is empty"),
        ("epsilons.L2=[0.5", "the override 'epsilons.L2=[0.5' does not parse"),
        ("data.classes=[Größe]", "quotes around a text of more than a-z, 0-9 and _-./"),
        ("epsilons.L2=[1,1.0]", "epsilons.L2: [1.0, 1.0] holds an epsilon twice"),
        ("executor.retries=-1", "executor.retries: -1 is less than 0"),
        ("attacks.foolbox_l2_pdg.steps=3", "did you mean 'foolbox_l2_pgd'"),
        ("~attacks.nope", "attacks.nope: is not there to be removed"),
        (
            "attacks.foolbox_l2_pgd.repeat=0",
            "foolbox_l2_pgd.repeat: 0 is less than 1",
        ),
    ],
)
def test_an_override_that_cannot_be_used_is_one_line(override, line):
    with pytest.raises(UserError) as caught:
        load_evaluation(None, [override])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_that_is_wrong_is_named_at_once_a_line_each(tmp_path):
    text = (
        "samples: 0\nmodel: {dtype: float8}\ndata: {sizes: 3}\nattacks: {a: {name: x, repeat: 0}}"
    )
    with pytest.raises(UserError) as caught:
        load_evaluation(written(tmp_path, text))
    assert sorted(str(caught.value).split("\n")) == [
        "attacks.a.repeat: 0 is less than 1",
        "data.sizes: there is no such key; did you mean 'size' or 'resize'?"
        " (arguments of what is named go below params)",
        "model.dtype: there is no 'float8'; did you mean 'float32' or 'float16' or 'bfloat16'?",
        "samples: 0 is less than 1",
    ]


def test_values_that_were_changed_after_construction_are_checked_and_whole_numbers_made_floats():
    evaluation = Evaluation(epsilons={"L2": [1, 2]}, output=Path("runs"))
    assert repr(evaluation.validated().epsilons) == "{'L2': [1.0, 2.0]}"
    assert evaluation.validated().output == "runs"
    with pytest.raises(UserError, match=r"epsilons\.L2\.0: b'1' is not a number"):
        Evaluation(epsilons={"L2": [b"1"]}).validated()
    evaluation.attacks["mine"] = AttackConfig("L2PGD", repeat=0)
    evaluation.data.size = True
    with pytest.raises(UserError, match=r"data\.size: True is not .*\nattacks\.mine\.repeat"):
        evaluate(evaluation)


def test_a_file_that_does_not_exist_names_the_nearest(tmp_path):
    written(tmp_path, "seed: 1")
    with pytest.raises(UserError, match=r"rnu\.yaml: there is no such file; did you mean .*run"):
        load_evaluation(tmp_path / "rnu.yaml")


def test_paths_are_taken_as_they_are_written():
    for path in (
        "w/epoch=3-step=100.ckpt", "a (1)/b.pt", "a&b;c!.pt", "#1/~x", "Büro/größe.pt",
        "it's/x=1.pt", "/data/[old] run/x.pt", "[/i]", "{a:1}",
    ):  # fmt: skip
        keys = ("model.weights", "data.root", "data.index", "output")
        found = load_evaluation(overrides=[f"{key}={path}" for key in keys])
        paths = (found.model.weights, found.data.root, found.data.index, found.output)
        assert paths == (path,) * 4
    with pytest.raises(UserError, match="does not parse"):
        load_evaluation(overrides=["model.name=a=b"])


PATHS = ["model.weights", "data.root", "data.index", "tracking.folder", "output"]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", "is empty; give a path, or leave it out"),
        ("a\0b", r"'a\\x00b' holds a character that no path can hold"),
        ("~a\0b", "holds a character that no path can hold"),
        ("\ud800", "holds a character that no path can hold"),
    ],
)
def test_a_path_that_no_file_can_have_is_one_line(path, line):
    for load, keys in ((load_evaluation, PATHS), (load_training, PATHS[-1:])):
        for key in keys:
            with pytest.raises(UserError, match=f"^{key}: .*{line}"):
                load(None, [f"{key}={path}"])


def test_a_tilde_is_the_home_folder_of_a_user_that_there_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for path, expanded in (("~/a", "/home/me/a"), ("~no_such_user/a",) * 2, ("~.pth",) * 2):
        assert expand_path(path) == expand_path(Path(path)) == Path(expanded)

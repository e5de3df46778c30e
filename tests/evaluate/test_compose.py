import math

import pytest

from foolbox_carescale.evaluate import AttackConfig, Evaluation, UserError, load_evaluation


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


def test_epsilons_of_one_norm_leave_the_others(tmp_path):
    evaluation = load_evaluation(None, ["epsilons.L2=[1,2]"])
    assert evaluation.epsilons == {**Evaluation().epsilons, "L2": [1.0, 2.0]}


def test_a_target_of_ones_own_takes_arguments_beside_it():
    evaluation = load_evaluation(None, ["model._target_=my.model", "model.width=3"])
    assert evaluation.model._target_ == "my.model"
    assert evaluation.model.params == {"width": 3}


def test_groups_beside_the_file_can_be_composed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "small.yaml").write_text("name: resnet18\n", encoding="utf-8")
    path = written(tmp_path, "defaults: [{model: small}]\nseed: 5\n")
    evaluation = load_evaluation(path)
    assert (evaluation.model.name, evaluation.seed) == ("resnet18", 5)


def test_the_resolved_config_reads_back_as_the_same_run(tmp_path):
    evaluation = load_evaluation(
        None, ["attacks.new.name=L2PGD", "attacks.new.steps=2", "data.params.a=1", "seed=9"]
    )
    evaluation.attacks["ours_linf_noise"].params = {"p": math.inf}
    assert load_evaluation(written(tmp_path, evaluation.to_yaml())) == evaluation


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("modle: {}", "run.yaml: there is no key 'modle'; did you mean 'model'?"),
        ("model: {nme: x}", "model.nme: there is no such key; did you mean 'name'?"),
        ("model: {name: x\nseed: 1", "run.yaml: is not valid YAML at line 2"),
        ("seed: 0\nseed: 1", "found duplicate key seed"),
        ("- 1", "run.yaml: holds a list"),
        ("seed: many", "seed: 'many' is not of type Integer"),
        ("epsilons: [1]", "epsilons: [1] is not a mapping"),
        ("epsilons: {L2: 0.5}", "epsilons.L2: 0.5 is not a list; write [0.5]"),
        ("epsilons: {Linfty: [0.5]}", "'Linfty' is not a norm; did you mean 'Linf'?"),
        ("attacks: {a: L2PGD}", "attacks.a: 'L2PGD' is not a mapping"),
        ("attacks: {a: {steps: 2}}", "attacks.a.name: is missing"),
        ("attacks: {a/b: {name: L2PGD}}", "the label 'a/b' is not made of"),
        ("attacks: {}", "attacks: there is none"),
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
    ("override", "line"),
    [
        ("modle.name=resnet18", "modle: there is no such key; did you mean 'model'?"),
        ("model.nme=resnet18", "model.nme: there is no such key; did you mean 'name'?"),
        ("model=resnet81", "model: there is no 'resnet81'; did you mean 'resnet18'"),
        ("sede=1", "sede: there is no such key; did you mean 'seed'?"),
        ("seed=abc", "seed: 'abc' is not of type Integer"),
        ("seed=-1", "seed: -1 is negative"),
        ("samples=0", "samples: 0 is not positive"),
        ("data.size=-5", "data.size: -5 is not positive"),
        ("epsilons.L2=[-0.5]", "epsilons.L2: -0.5 is not a positive, finite number"),
        ("epsilons.L2=[.inf]", "epsilons.L2: '.inf' is not a float"),
        ("epsilons.L2=[inf]", "epsilons.L2: inf is not a positive, finite number"),
        ("epsilons.L2=0.5", "epsilons.L2: 0.5 is not a list; write [0.5]"),
        ("epsilons.L2=[]", "epsilons.L2: the list is empty"),
        ("epsilons.L2=[0.5", "the override 'epsilons.L2=[0.5' does not parse"),
        ("attacks.foolbox_l2_pdg.steps=3", "did you mean 'foolbox_l2_pgd'"),
        ("~attacks.nope", "attacks.nope: is not there to be removed"),
        ("attacks.foolbox_l2_pgd.repeat=0", "attacks.foolbox_l2_pgd.repeat: 0 is not positive"),
    ],
)
def test_an_override_that_cannot_be_used_is_one_line(override, line):
    with pytest.raises(UserError) as caught:
        load_evaluation(None, [override])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_exist_names_the_nearest(tmp_path):
    written(tmp_path, "seed: 1")
    with pytest.raises(UserError, match=r"rnu\.yaml: there is no such file; did you mean .*run"):
        load_evaluation(tmp_path / "rnu.yaml")

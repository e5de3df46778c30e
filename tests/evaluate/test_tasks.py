import foolbox
import pytest

from foolbox_carescale.evaluate import AttackConfig, Evaluation, UserError, load_evaluation
from foolbox_carescale.evaluate.runner.tasks import Tasks, make_attack, make_settings


def test_a_task_has_the_same_seed_in_whatever_company():
    attacks = {"a": AttackConfig("L2PGD"), "b": AttackConfig("LinfPGD")}
    together = Tasks(make_settings(Evaluation(attacks=attacks)), 30, 10, seed=1)
    alone = Tasks(make_settings(Evaluation(attacks={"b": attacks["b"]})), 30, 10, seed=1)
    seeds = {(u.setting.label, u.setting.epsilon, u.batch): u.seed for u in together}
    assert len(set(seeds.values())) == len(seeds)
    for task in alone:
        assert seeds[task.setting.label, task.setting.epsilon, task.batch] == task.seed


def test_seeds_differ_by_run_seed_parameters_and_repeat():
    configs = [
        (0, AttackConfig("L2PGD")),
        (1, AttackConfig("L2PGD")),
        (0, AttackConfig("L2PGD", params={"steps": 3})),
        (0, AttackConfig("L2PGD", repeat=2)),
    ]
    seeds = {
        Tasks(make_settings(Evaluation(attacks={"a": c})), 1, 1, seed)[0].seed
        for seed, c in configs
    }
    assert len(seeds) == len(configs)


def test_every_sample_is_in_one_task_of_each_setting_and_tasks_are_found_by_name():
    attacks = {"a": AttackConfig("L2PGD", [1.0, 2.0]), "b": AttackConfig("L2DeepFoolAttack", [1.0])}
    tasks = Tasks(make_settings(Evaluation(attacks=attacks)), 25, 10, seed=0)
    assert [task.number for task in tasks] == list(range(9))
    assert sum(len(task.samples) for task in tasks) == 3 * 25
    assert all(tasks.named(task.name).number == task.number for task in tasks)
    strangers = ("x", "0000-a-1.0-00003", "0000-b-1.0-00001", "0009-b-all-00000")
    assert all(tasks.named(name) is None for name in strangers)


@pytest.mark.parametrize("shards", [1, 2, 7, 32, 256])
def test_shards_are_ranges_of_batches_that_differ_by_one_at_most(shards):
    settings = make_settings(Evaluation(attacks={"a": AttackConfig("L2PGD", [1.0, 2.0])}))
    tasks = Tasks(settings, 1000, 25, seed=0)
    ranges = [tasks.in_shard(shard, shards) for shard in range(shards)]
    assert [batch for batches in ranges for batch in batches] == list(range(40))
    lengths = {len(batches) for batches in ranges}
    assert max(lengths) - min(lengths) <= 1
    numbers = [number for batch in range(40) for number in tasks.in_batch(batch)]
    assert sorted(numbers) == list(range(80))
    assert [tasks[number].batch for number in numbers] == [i // 2 for i in range(80)]


def test_a_minimisation_attack_is_one_task_for_all_its_epsilons():
    settings = make_settings(Evaluation(attacks={"a": AttackConfig("L2DeepFoolAttack", repeat=2)}))
    tasks = Tasks(settings, 10, 10, seed=0)
    assert len(settings) > 1
    assert [task.settings for task in tasks] == [tuple(settings)]


def test_an_attacks_own_epsilons_override_those_of_its_norm():
    attacks = {"a": AttackConfig("L2PGD", epsilons=[3.0, 2.0]), "b": AttackConfig("L2PGD")}
    settings = make_settings(Evaluation(attacks=attacks, epsilons={"L2": [1.0]}))
    assert [(c.label, c.p, c.epsilon) for c in settings] == [
        ("a", 2.0, 2.0),
        ("a", 2.0, 3.0),
        ("b", 2.0, 1.0),
    ]


class OwnAttack(foolbox.attacks.L2PGD):
    pass


def test_the_library_of_an_attack_is_the_package_of_its_class():
    own = AttackConfig("own", _target_=f"{__name__}.OwnAttack")
    assert make_attack("a", own)[1] == __name__.partition(".")[0]
    assert make_attack("a", AttackConfig("L2PGD", repeat=2))[1] == "foolbox"
    assert make_attack("a", AttackConfig("L2ClipAwarePGD"))[1] == "foolbox_carescale"


def test_attacks_of_any_distance_take_a_norm_by_name():
    config = AttackConfig("GaussianBlurAttack", params={"distance": "Linf"})
    assert make_attack("a", config)[0].distance.p == float("inf")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (AttackConfig("L2PDG"), r"attacks\.a\.name: .*L2PGD"),
        (AttackConfig("Attack"), r"attacks\.a"),
        (AttackConfig("L2PGD", params={"stps": 1}), "takes no 'stps'; did you mean 'steps'"),
        (AttackConfig("L2PGD", params={"epsilon": [1]}), "did you mean 'epsilons'"),
        (AttackConfig("L2PGD", params={"steps": "three"}), "'three' is str, but .* expects int"),
        (
            AttackConfig("BoundaryAttack", params={"tensorboard": True}),
            "True is bool, but .* expects",
        ),
        (AttackConfig("L2PGD", params={"steps": 1.5}), "1.5 is float, but .* expects int"),
        (AttackConfig("L2PGD", params={"steps": -3}), r"attacks\.a\.steps: -3 is less than 1"),
        (AttackConfig("L2DeepFoolAttack", params={"steps": 0}), "a.steps: 0 is less than 1"),
        (
            AttackConfig("LinfPGD", params={"rel_stepsize": float("nan")}),
            r"attacks\.a\.rel_stepsize: nan is not a number",
        ),
        (AttackConfig("EADAttack", params={"binary_search_steps": 0}), "0 is less than 1"),
        (
            AttackConfig("L2RepeatedAdditiveGaussianNoiseAttack", params={"repeats": 0}),
            "a.repeats: 0 is less than 1",
        ),
        (AttackConfig("L2ClipAwarePGD", params={"stps": 1}), "did you mean 'steps'"),
        (AttackConfig("L2ClipAwarePGD", params={"schedule": "csine"}), "csine"),
        (AttackConfig("ClipAwareGaussianNoise", params={"p": -1.0}), "-1"),
        (AttackConfig("GaussianBlurAttack"), "give one, e.g. attacks.a.distance=L2"),
        (AttackConfig("GaussianBlurAttack", params={"distance": "l2"}), "did you mean 'L2'"),
    ],
)
def test_an_attack_that_cannot_be_made_is_one_line(config, line):
    with pytest.raises(UserError, match=line) as caught:
        make_attack("a", config)
    assert "\n" not in str(caught.value)


def own_attack(steps, surplus=0):
    from foolbox.attacks import L2PGD

    return L2PGD(steps=steps + surplus)


def test_an_attack_of_ones_own_takes_arguments_like_any_other():
    target = f"{__name__}.own_attack"
    config = AttackConfig(_target_=target, params={"steps": 3})
    attack, _ = make_attack("a", config)
    assert (attack.steps, config.name) == (3, target)
    for params, line in (({}, "a.steps: is missing"), ({"stps": 1}, "did you mean 'steps'")):
        with pytest.raises(UserError, match=line):
            make_attack("a", AttackConfig(_target_=target, params=params))
    with pytest.raises(UserError, match=r"attacks\.a\._target_: there is no module 'no'"):
        make_attack("a", AttackConfig(_target_="no.such"))


def keen(name="", epsilons=(), repeat=0, steps=1):
    attack = foolbox.attacks.L2PGD(steps=steps)
    attack.taken = name, epsilons, repeat
    return attack


def failing(steps=1):
    raise RuntimeError(f"no {steps} steps")


@pytest.mark.parametrize(
    ("keys", "key"),
    [({"name": "mine"}, "name"), ({"epsilons": [0.5]}, "epsilons"), ({"repeat": 2}, "repeat")],
)
def test_a_key_of_the_config_that_an_attack_of_ones_own_takes_as_well_is_refused(keys, key):
    line = rf"attacks\.a\.{key}: .*keen has an argument of this name, .* attacks\.a\.params\.{key}="
    with pytest.raises(UserError, match=line):
        make_attack("a", AttackConfig(_target_=f"{__name__}.keen", **keys))


def test_arguments_of_an_attack_of_ones_own_may_be_called_like_keys_of_the_config(tmp_path):
    text = (
        f"attacks: {{a: {{_target_: {__name__}.keen, steps: 2, epsilons: [1],"
        " params: {name: x, epsilons: [3], repeat: 4}}}"
    )
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    evaluation = load_evaluation(tmp_path / "run.yaml")
    config = evaluation.attacks["a"]
    attack, _ = make_attack("a", config)
    assert (attack.taken, attack.steps) == (("x", [3], 4), 2)
    assert (config.epsilons, config.repeat) == ([1.0], 1)
    (tmp_path / "again.yaml").write_text(evaluation.to_yaml(), encoding="utf-8")
    assert load_evaluation(tmp_path / "again.yaml") == evaluation


def test_an_error_inside_an_attack_of_ones_own_is_one_line():
    target = f"{__name__}.failing"
    with pytest.raises(UserError, match="failing raises RuntimeError: no 1 steps") as caught:
        make_attack("a", AttackConfig(_target_=target))
    assert "\n" not in str(caught.value)


def test_a_norm_without_epsilons_is_one_line():
    attacks = {"a": AttackConfig("LinfPGD")}
    with pytest.raises(UserError, match=r"epsilons\.Linf: is missing, but attack 'a'"):
        make_settings(Evaluation(attacks=attacks, epsilons={"L2": [1.0]}))

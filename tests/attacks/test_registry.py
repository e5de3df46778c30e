"""Attacks by name, the norm variants, and what a user sees of an attack."""

import inspect
import math
import pickle

import foolbox.attacks
import numpy as np
import pytest

import foolbox_carescale as fc
from foolbox_carescale import attacks
from foolbox_carescale.attacks import registry
from tests.attacks import model_cases

KINDS = (
    "ClipAwareFGM",
    "ClipAwareBIM",
    "ClipAwarePGD",
    "ClipAwareMomentumPGD",
    "ClipAwareAdamPGD",
    "ClipAwareAPGD",
    "ClipAwareFrankWolfe",
    "ClipAwareMinimumNorm",
    "ClipAwareAutoAttack",
    "ClipAwareSquare",
    "ClipAwareGaussianNoise",
    "ClipAwareUniformNoise",
    "ClipAwareLaplaceNoise",
    "ClipAwareSaltAndPepperNoise",
)
NAMES = [prefix + kind for kind in KINDS for prefix in ("", "L1", "L2", "Linf", "Lp")]
ORDER = {"L1": 1.0, "L2": 2.0, "Linf": math.inf}


def make(name):
    attack = fc.get_attack(name)
    return attack(p=3) if name.startswith("Lp") else attack()


def test_every_attack_is_in_foolbox_after_the_import():
    for name in NAMES:
        attack = getattr(foolbox.attacks, name)
        assert attack is getattr(attacks, name) is fc.get_attack(name)
        assert attack.__name__ == attack.__qualname__ == name
        minimizes = name.endswith("MinimumNorm")
        base = foolbox.attacks.base
        assert issubclass(attack, base.MinimizationAttack if minimizes else base.FixedEpsilonAttack)
        assert name in fc.list_attacks()


def test_these_are_all():
    assert {attack.__name__ for attack in attacks.REGISTERED} == {*NAMES, "MinimalEpsilon"}
    assert fc.list_attacks("*ClipAware*") == sorted(NAMES)


def test_foolbox_s_own_attacks_have_their_names_too():
    assert fc.get_attack("LinfPGD") is foolbox.attacks.LinfPGD
    names = fc.list_attacks()
    assert {"LinfPGD", "L2DeepFoolAttack", "L2ClipAwarePGD"} <= set(names)
    assert names == sorted(names)
    assert "Attack" not in names
    assert all(fc.get_attack(name) is not None for name in names)


def test_a_pattern_selects_in_any_case():
    expected = [n for n in fc.list_attacks() if n.startswith("L2") and n.endswith("PGD")]
    assert expected == fc.list_attacks("l2*pgd")
    assert {"L2PGD", "L2ClipAwarePGD"} <= set(expected)
    assert fc.list_attacks("L?ClipAwareFGM") == [f"L{c}ClipAwareFGM" for c in "12p"]
    assert fc.list_attacks("nothing") == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("L2ClipAwarePGDD", "L2ClipAwarePGD"),
        ("l2clipawarepgd", "L2ClipAwarePGD"),
        ("LInfPGD", "LinfPGD"),
        ("ClipawareGausianNoise", "ClipAwareGaussianNoise"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(wrong, right):
    with pytest.raises(ValueError, match=f"attack: .* {wrong!r}; did you mean .*{right}.*\\?"):
        fc.get_attack(wrong)


def test_a_name_near_to_none_is_answered_without_a_guess():
    with pytest.raises(ValueError, match=r"'%%%'$"):
        fc.get_attack("%%%")


def test_a_name_that_foolbox_has_is_refused_and_kept(monkeypatch):
    original = foolbox.attacks.LinfPGD
    impostor = type("LinfPGD", (attacks.ClipAwarePGD,), {})
    with pytest.raises(ValueError, match=r"already has a LinfPGD, from foolbox\.attacks"):
        registry.register_attack(impostor)
    assert foolbox.attacks.LinfPGD is original
    # once more under its own name is no conflict, and a new one is added
    registry.register_attack(attacks.ClipAwarePGD)
    new = type("ClipAwareTest", (attacks.ClipAwarePGD,), {})
    monkeypatch.setattr(foolbox.attacks, "ClipAwareTest", new, raising=False)
    registry.register_attack(new)
    assert fc.get_attack("ClipAwareTest") is new


def test_the_signature_of_a_variant_is_that_of_its_base_but_for_p():
    for name in NAMES:
        own = inspect.signature(fc.get_attack(name)).parameters
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in own.values())
        kind = next(kind for kind in KINDS if name.endswith(kind))
        base = dict(inspect.signature(fc.get_attack(kind)).parameters)
        prefix = name.removesuffix(kind)
        if prefix in ORDER:
            assert make(name).p == ORDER[prefix]
            del base["p"]
        elif prefix == "Lp":
            assert make(name).p == 3
            base["p"] = base["p"].replace(default=inspect.Parameter.empty)
        else:
            assert make(name).p == 2
        assert dict(own) == base


def test_every_attack_says_what_it_computes():
    for name in NAMES:
        doc = inspect.getdoc(fc.get_attack(name))
        assert len(doc.splitlines()[0]) > 20
        prefix = name.split("Clip")[0]
        if prefix in ORDER:
            assert doc.startswith(f"``{name.removeprefix(prefix)}(p={ORDER[prefix]:g}, ...)``.")


def test_attacks_survive_pickling():
    for name in NAMES:
        attack = make(name)
        again = pickle.loads(pickle.dumps(attack))
        assert type(again) is type(attack)
        assert vars(again) == vars(attack)
        assert pickle.loads(pickle.dumps(type(attack))) is type(attack)


def test_a_repeated_attack_survives_pickling_and_attacks_alike():
    case = model_cases.make("torch")
    attack = attacks.L2ClipAwarePGD(steps=2).repeat(2)

    def outcome(attack):
        model_cases.seed("torch")
        return attack(case.model, case.x, case.labels, epsilons=1.0)[0].numpy()

    assert np.array_equal(outcome(attack), outcome(pickle.loads(pickle.dumps(attack))))


def test_the_repr_names_the_class_and_the_order():
    for name in NAMES:
        text = repr(make(name))
        assert text.startswith(f"{name}(p={make(name).p}")
        assert text.endswith(")")


def test_the_distance_of_an_attack_is_the_p_norm():
    x = np.zeros((2, 3, 4, 4), np.float32)
    y = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    for p in (0.5, 1, 2, 3, math.inf):
        distance = attacks.ClipAwareGaussianNoise(p=p).distance(x, y)
        assert distance == pytest.approx(model_cases.reference.norm(y, p), rel=1e-6)


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3, math.inf])
def test_what_is_longer_than_epsilon_is_cut_and_nothing_else_is_touched(p):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(3, 3, 4, 4)).astype(np.float32)
    y = np.clip(x + 0.3 * rng.normal(size=x.shape), 0, 1).astype(np.float32)
    epsilon = model_cases.reference.norm(y - x, p) * [0.5, 1, 2]
    distance = attacks.ClipAwareGaussianNoise(p=p).distance
    cut = distance.clip_perturbation(x, y, epsilon.astype(np.float32))
    assert np.array_equal(cut[1:], y[1:])
    assert model_cases.reference.norm(cut - x, p)[0] == pytest.approx(epsilon[0], rel=1e-5)
    # p = inf cuts the coordinates that exceed epsilon, and leaves the others their size
    short = np.abs(y - x)[0] < 0.99 * epsilon[0]
    if p == math.inf:
        assert cut[0][short] == pytest.approx(y[0][short], abs=1e-7)
    else:
        assert np.all(np.abs(cut - x)[0][short] <= np.abs(y - x)[0][short])
    assert cut.min() >= 0
    assert cut.max() <= 1


def test_attacks_of_other_packages_come_by_entry_points_and_a_broken_one_is_a_warning(
    tmp_path, monkeypatch
):
    (tmp_path / "toy.py").write_text(
        "from foolbox.attacks import LinfPGD\nclass ToyAttack(LinfPGD):\n    kind = 'noise'\n"
    )
    information = tmp_path / "toy-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[carescale.attacks]\nToyAttack = toy:ToyAttack\nBroken = no_such_module:Broken\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._register_entry_points.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="Broken = no_such_module:Broken") as caught:
            assert registry.get_attack("ToyAttack").__module__ == "toy"
        assert len(caught) == 1
        assert "ToyAttack" in registry.list_attacks("toy*")
        assert registry.kind_of("ToyAttack") == "noise"
    finally:
        if hasattr(foolbox.attacks, "ToyAttack"):
            del foolbox.attacks.ToyAttack


def test_what_is_no_attack_is_not_registered():
    with pytest.raises(ValueError, match="attack: expected a subclass of foolbox's Attack, got 3"):
        registry.register_attack(3)

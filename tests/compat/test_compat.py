"""The signatures of other libraries, against the attacks that they stand for, and the originals."""

import inspect
import math

import pytest
import torch

from foolbox_carescale import attacks
from foolbox_carescale.compat import AutoAttack, torchattacks

EPS = 0.05


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(192, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5)
    ).eval()


@pytest.fixture(scope="module")
def samples(network):
    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = network(x).argmax(1)
    y[0] = (y[0] + 1) % 5  # one that is wrong from the start
    return x, y


def test_a_standard_evaluation_is_that_of_the_ensemble(network, samples, capsys):
    x, y = samples
    adversary = AutoAttack(network, norm="Linf", eps=EPS, seed=0, version="fast")
    found, labels = adversary.run_standard_evaluation(x, y, bs=5, return_labels=True)
    ensemble = attacks.LinfClipAwareAutoAttack(version="fast", seed=0)
    expected = ensemble(network, x, y, epsilons=EPS)[2]
    assert torch.equal(labels != y, expected)
    assert torch.equal(network(found).argmax(1), labels)
    unbroken = ~expected
    assert torch.equal(found[unbroken], x[unbroken])  # as AutoAttack returns them
    norms = (found - x).flatten(1).abs().amax(1)
    assert (norms <= EPS * (1 + 1e-5)).all()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "using fast version including minimum-norm, apgd-t, pgd-margin."
    assert printed[1] == f"initial accuracy: {11 / 12:.2%}"
    assert printed[2].startswith("minimum-norm - 1/3 - ")
    assert printed[-2].startswith(f"max Linf perturbation: {norms.max():.5f}, nan in tensor: 0")
    assert printed[-1] == f"robust accuracy: {(~expected).double().mean():.2%}"


def test_each_attack_by_itself_starts_from_all_samples(network, samples, capsys):
    x, y = samples
    adversary = AutoAttack(
        network, "L2", 0.4, attacks_to_run=["apgd-ce", "fab"], version="custom", seed=0
    )
    found = adversary.run_standard_evaluation_individual(x, y, bs=12)
    assert list(found) == adversary.attacks_to_run == ["apgd-ce", "fab"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for name, line in zip(found, lines, strict=True):
        right = (network(found[name]).argmax(1) == y).double().mean().item()
        assert line.startswith(f"robust accuracy by {name.upper()}: {right:.2%} (time attack:")
    # an attack in the place of another only attacks what that one left
    adversary.attacks_to_run = ["apgd-ce"]
    assert torch.equal(adversary.run_standard_evaluation(x, y, bs=12), found["apgd-ce"])


def test_a_function_is_a_model_and_lines_go_to_a_file_too(network, samples, tmp_path, capsys):
    x, y = samples
    log = tmp_path / "log.txt"
    adversary = AutoAttack(lambda x: network(x), eps=EPS, version="fast", log_path=log, seed=0)
    adversary.clean_accuracy(x, y, bs=7)
    assert log.read_text() == capsys.readouterr().out == f"clean accuracy: {11 / 12:.2%}\n"
    quiet = AutoAttack(network, eps=EPS, version="fast", verbose=False, log_path=log, seed=0)
    by_module = quiet.run_standard_evaluation(x, y)
    assert torch.equal(adversary.run_standard_evaluation(x, y), by_module)
    assert "robust accuracy" not in log.read_text().splitlines()[0]


def test_eps_may_be_a_fraction(network, samples):
    adversary = AutoAttack(network, eps="8/255", version="fast", verbose=False)
    assert adversary.epsilon == torchattacks.FGSM(network, eps="8/255").eps == 8 / 255
    torchattacks.FGSM(network, eps="8/255")(*samples)
    with pytest.raises(ValueError, match="eps: expected finite numbers >= 0, got nan"):
        torchattacks.PGD(network, eps=math.nan)


def test_every_module_gets_its_own_mode_back(samples):
    norm, dropout = torch.nn.BatchNorm1d(192), torch.nn.Dropout()
    network = torch.nn.Sequential(torch.nn.Flatten(), norm, dropout, torch.nn.Linear(192, 5))
    norm.eval()  # frozen in fine-tuning
    before = [module.training for module in network.modules()]
    torchattacks.FGSM(network)(*samples)
    assert [module.training for module in network.modules()] == before
    assert before == [True, True, False, True, True]


def test_where_nothing_is_left_no_attack_runs(network, samples, capsys):
    x, _ = samples
    wrong = (network(x).argmax(1) + 1) % 5
    adversary = AutoAttack(network, eps=EPS)
    assert torch.equal(adversary.run_standard_evaluation(x, wrong), x)
    assert "successfully perturbed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l2"}, "norm: expected one of L1, L2, Linf, got 'l2'"),
        ({"eps": -1}, "eps: expected finite numbers >= 0, got -1"),
        ({"version": "best"}, "version: expected one of standard, .* got 'best'"),
        ({"attacks_to_run": ["square"]}, "attacks_to_run: version='standard' has its own"),
        ({"is_tf_model": True}, "is_tf_model: expected False"),
    ],
)
def test_the_constructor_names_what_it_refuses(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(network, **arguments)


def test_an_unknown_attack_is_named_before_anything_runs(network, samples, capsys):
    adversary = AutoAttack(network, attacks_to_run=["apgd"], version="custom")
    with pytest.raises(ValueError, match="attacks_to_run: there is no 'apgd'; known are"):
        adversary.run_standard_evaluation(*samples)
    with pytest.raises(ValueError, match="state_path: expected None"):
        AutoAttack(network).run_standard_evaluation(*samples, state_path="state.pt")
    with pytest.raises(AttributeError, match=r"'square'; ClipAwareAutoAttack takes .* queries"):
        adversary.square.n_queries = 20
    assert capsys.readouterr().out == ""


MADE = {
    "FGSM": (lambda m: torchattacks.FGSM(m, eps=EPS), math.inf),
    "PGD": (lambda m: torchattacks.PGD(m, eps=EPS, alpha=0.01, steps=3), math.inf),
    "PGDL2": (lambda m: torchattacks.PGDL2(m, eps=EPS, steps=3), 2),
    "MIFGSM": (lambda m: torchattacks.MIFGSM(m, eps=EPS, steps=3, decay=1.0), math.inf),
    "APGD": (lambda m: torchattacks.APGD(m, norm="L1", eps=1.0, steps=3), 1),
    "Square": (lambda m: torchattacks.Square(m, norm="L2", eps=EPS, n_queries=3), 2),
    "AutoAttack": (lambda m: torchattacks.AutoAttack(m, "L2", EPS, version="fast"), 2),
}


@pytest.mark.parametrize("name", MADE)
def test_each_attack_returns_images_exactly_eps_away(network, samples, name):
    x, y = samples
    make, p = MADE[name]
    eps = make(network).eps
    network.train()
    try:
        found = make(network)(x, y)
        assert network.training
    finally:
        network.eval()
    norms = torch.linalg.vector_norm((found - x).double().flatten(1), ord=p, dim=1)
    attacked = network(x).argmax(1) == y
    assert torch.allclose(norms[attacked], torch.full((11,), eps).double(), rtol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


def test_targets_are_labels_or_what_a_function_makes_of_them(network, samples):
    x, _ = samples
    y = network(x).argmax(1)
    targets = (y + 1) % 5
    by_label = torchattacks.APGD(network, norm="L2", eps=1.0, steps=20)
    by_label.set_mode_targeted_by_label()
    found = by_label(x, targets)
    by_function = torchattacks.APGD(network, norm="L2", eps=1.0, steps=20)
    by_function.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 5)
    assert torch.equal(by_function(x, y), found)
    towards = torch.nn.functional.cross_entropy
    assert towards(network(found), targets) < towards(network(x), targets)
    by_function.set_mode_default()
    assert not torch.equal(by_function(x, y), found)


# of torchattacks 3.5.1, in their order
THEIRS = {
    "FGSM": "model eps",
    "PGD": "model eps alpha steps random_start",
    "PGDL2": "model eps alpha steps random_start eps_for_division",
    "MIFGSM": "model eps alpha steps decay",
    "APGD": "model norm eps steps n_restarts seed loss eot_iter rho verbose",
    "Square": "model norm eps n_queries n_restarts p_init loss resc_schedule seed verbose",
    "AutoAttack": "model norm eps version n_classes seed verbose",
}


@pytest.mark.parametrize("name", MADE)
def test_the_arguments_are_those_of_the_originals(name):
    ours = inspect.signature(getattr(torchattacks, name)).parameters.values()
    positional = [one.name for one in ours if one.kind is not one.KEYWORD_ONLY]
    assert THEIRS[name].split()[: len(positional)] == positional
    assert {one.name for one in ours} <= set(THEIRS[name].split())

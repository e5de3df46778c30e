"""The losses against their formulas, and what they say where they are not defined."""

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks
from foolbox_carescale.attacks import losses
from tests.attacks import model_cases

LOGITS = torch.tensor([[4.0, 1.0, 2.0, -1.0, 0.5], [0.0, 3.0, 5.0, 1.0, 2.0]])
LABELS = torch.tensor([0, 1])


def value(loss, criterion=None, logits=LOGITS):
    loss_fn = losses.make_loss(criterion or fb.criteria.Misclassification(LABELS), loss)
    return loss_fn(ep.astensor(logits)).numpy().tolist()


def test_margin_is_the_best_other_logit_minus_the_label_s():
    assert value("margin") == [2.0 - 4.0, 5.0 - 3.0]


def test_soft_margin_is_the_logarithm_of_the_other_exponentials_minus_the_label_s_logit():
    others = torch.stack([LOGITS[0, 1:], LOGITS[1, [0, 2, 3, 4]]])
    expected = others.exp().sum(1).log() - torch.tensor([4.0, 3.0])
    assert value("soft_margin") == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("loss", ["ce", "margin", "soft_margin", "dlr"])
def test_a_number_added_to_all_logits_changes_no_loss(loss):
    for number in (-64.0, 512.0):  # below 0, and what the exponential of is no float32
        assert value(loss, logits=LOGITS + number) == pytest.approx(value(loss), rel=1e-4)


def test_dlr_divides_the_margin_by_the_gap_to_the_third_logit():
    assert value("dlr") == pytest.approx([-2.0 / (4.0 - 1.0), 2.0 / (5.0 - 2.0)])


def test_targeted_dlr_is_the_formula_of_croce_and_hein():
    def found(logits, *targets):
        tensors = (ep.astensor(t) for t in (logits, LABELS, torch.tensor(targets)))
        return losses.targeted_dlr(*tensors).numpy().tolist()

    expected = [(2.0 - 4.0) / (4.0 - (1.0 + 0.5) / 2), (2.0 - 3.0) / (5.0 - (2.0 + 1.0) / 2)]
    assert found(LOGITS, 2, 4) == pytest.approx(expected)
    expected = [(2.0 - 4.0) / (4.0 - (1.0 - 1.0) / 2), (1.0 - 3.0) / (5.0 - (1.0 + 0.0) / 2)]
    assert found(LOGITS[:, :4], 2, 3) == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["ce", "margin", "soft_margin", "dlr"])
def test_a_targeted_criterion_is_ascended_towards_its_classes(loss):
    towards = fb.criteria.TargetedMisclassification(LABELS)
    assert value(loss, towards) == pytest.approx([-v for v in value(loss)])


def test_a_function_of_the_user_s_own_is_ascended():
    assert value(lambda logits, labels: logits[:, 0] * 2) == [8.0, 0.0]


def test_dlr_aims_at_the_most_likely_other_classes_in_turn():
    criterion = fb.criteria.Misclassification(LABELS)
    loss_fns = losses.make_losses(criterion, "dlr_targeted", 2, lambda: ep.astensor(LOGITS))
    assert len(loss_fns) == 2
    every = losses.make_losses(criterion, "dlr_targeted", 9, lambda: ep.astensor(LOGITS))
    assert len(every) == LOGITS.shape[1] - 1
    # the runner-up of the first sample is class 2: raising it raises the first loss most
    raised = LOGITS.clone()
    raised[0, 2] += 0.5
    gains = [(g(ep.astensor(raised)) - g(ep.astensor(LOGITS))).numpy()[0] for g in loss_fns]
    assert gains[0] > gains[1]


@pytest.mark.parametrize(
    ("loss", "classes", "message"),
    [
        ("dlr", 2, "'dlr' needs at least 3 classes .* the model has 2; use loss='margin'"),
        ("dlr_targeted", 3, "targeted DLR needs at least 4 classes .* the model has 3"),
    ],
)
def test_dlr_says_what_it_needs(loss, classes, message):
    case, _ = model_cases.linear(classes=classes)
    attack = attacks.ClipAwarePGD(steps=2, loss=loss)
    with pytest.raises(ValueError, match=message):
        attack(case.model, case.x, case.labels, epsilons=0.1)


def test_dlr_falls_back_to_the_margin_only_when_asked():
    two = LOGITS[:, :2]
    assert value("dlr_or_margin", logits=two) == value("margin", logits=two)
    assert value("dlr_or_margin") == value("dlr")


def test_losses_are_refused_where_they_make_no_sense():
    with pytest.raises(ValueError, match=r"loss: expected one of ce, .* got 'hinge'"):
        attacks.ClipAwarePGD(loss="hinge")
    towards = fb.criteria.TargetedMisclassification(LABELS)
    with pytest.raises(ValueError, match="chooses the target classes itself"):
        losses.make_losses(towards, "dlr_targeted", 3, lambda: ep.astensor(LOGITS))
    with pytest.raises(ValueError, match="restarts: 2 with keep='last'"):
        attacks.ClipAwarePGD(restarts=2, keep="last")


def test_restarts_never_lower_the_loss_and_the_trace_counts_their_gradients():
    case = model_cases.digits(16)
    seen = []

    def loss_after(restarts):
        torch.manual_seed(0)
        attack = attacks.L2ClipAwarePGD(steps=4, restarts=restarts)
        points = attack.run(case.model, case.x, case.labels, epsilon=0.3, on_step=seen.append)
        with torch.no_grad():
            logits = case.model(points)
        wrong = (logits.argmax(-1) != case.labels).sum().item()
        return wrong, torch.nn.functional.cross_entropy(logits, case.labels).item()

    once = loss_after(1)
    seen.clear()
    thrice = loss_after(3)
    assert thrice[0] >= once[0]
    assert thrice[1] > once[1]
    assert [i.gradients for i in seen] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 12]
    assert all(np.isfinite(i.loss.numpy()).all() for i in seen)
    assert all(np.allclose(i.norm.numpy(), 0.3, rtol=1e-5) for i in seen)

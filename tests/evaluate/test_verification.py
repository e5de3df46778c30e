"""Claims about adversarial examples, true and false ones, from every kind of file."""

import csv
import json
import math

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from foolbox_carescale import perturb
from foolbox_carescale.cli import main
from foolbox_carescale.evaluate import (
    AttackConfig,
    Evaluation,
    UserError,
    digits,
    evaluate,
    verify,
    verify_run,
)

EPS = 8 / 255
N = 6
FIVE = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).eval()


@pytest.fixture
def images():
    """Clean images, some on the bounds, and exactly epsilon away from them, in Linf."""
    generator = np.random.default_rng(0)
    clean = generator.random((N, 3, 8, 8), np.float32).round(1)
    noise = generator.standard_normal(clean.shape).astype(np.float32)
    return clean, perturb(clean, noise, EPS, p=math.inf)


@pytest.mark.parametrize(("norm", "p"), [("L1", 1), ("L2", 2), ("Linf", math.inf), ("L1.5", 1.5)])
def test_exactly_epsilon_is_within_and_more_is_not(norm, p):
    generator = np.random.default_rng(1)
    clean = generator.random((N, 3, 32, 32), np.float32)
    noise = generator.standard_normal(clean.shape).astype(np.float32)
    for eps in (1e-3, 0.5) if p == math.inf else (0.05, 2.0):
        exact = perturb(clean, noise, eps, p=p)
        found = verify(clean, exact, epsilon=eps, norm=norm)
        assert found.holds
        assert not found.excess.any()
        expected = np.linalg.norm(
            (exact.astype(float) - clean.astype(float)).reshape(N, -1), ord=p, axis=1
        )
        assert np.array_equal(found.norms[norm], expected)
        more = perturb(clean, noise, 1.01 * eps, p=p)
        found = verify(clean, more, epsilon=eps, norm=norm)
        assert not found.holds
        assert np.allclose(found.excess, 0.01 * eps, rtol=0.05)


def test_each_fault_is_counted(images):
    clean, adversarial = images
    adversarial = adversarial.copy()
    adversarial[0] = clean[0]
    adversarial[1, 0, 0, 0] = -0.01
    adversarial[2, 0, 0, 0] = math.nan
    adversarial[3, 0, 0, 0] = clean[3, 0, 0, 0] + (0.2 if clean[3, 0, 0, 0] < 0.5 else -0.2)
    adversarial[4, 0, 0, 0] = math.inf
    found = verify(clean, adversarial, epsilon="8/255")
    assert found.unchanged.tolist() == [True] + [False] * (N - 1)
    assert np.flatnonzero(found.outside).tolist() == [1, 2, 4]
    assert np.flatnonzero(~found.finite).tolist() == [2, 4]
    assert {2, 3, 4} <= set(np.flatnonzero(found.excess))
    assert np.isposinf(found.norms["Linf"][[2, 4]]).all()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["greatest_excess"] is None
    assert {check.name for check in found.checks if not check.holds} == {"finite", "box", "epsilon"}
    assert found.norms["L0"][0] == 0


def test_a_model_says_which_are_adversarial_and_what_rounding_undoes():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
    clean = np.zeros((3, 1, 2, 2), np.float32)
    clean[:, 0, 0, 0] = 0.25
    adversarial = clean.copy()
    adversarial[0, 0, 0, 0] = 0  # equal logits: the first class
    network[1].bias = torch.nn.Parameter(torch.tensor([-0.001, 0.001]))
    adversarial[1, 0, 0, 0] = 0.0005  # class 1, and rounded to 0 too
    found = verify(clean, adversarial, epsilon=0.25, model=network, robust_accuracy=1 / 3)
    assert found.clean.tolist() == [0, 0, 0]
    assert found.adversarial.tolist() == [1, 1, 0]
    assert found.rounded.tolist() == [1, 1, 0]
    assert found.holds
    claim = verify(clean, adversarial, epsilon=0.25, model=network, robust_accuracy=0.7)
    assert [check.name for check in claim.checks if not check.holds] == ["robust_accuracy"]
    wide = verify(clean.astype(float), adversarial, epsilon=0.25, model=network.half())
    assert wide.adversarial.tolist() == [1, 1, 0]
    network.float()
    labelled = verify(clean, adversarial, [0, 0, 1], epsilon=0.25, model=network)
    assert labelled.accuracy(labelled.clean) == pytest.approx(2 / 3)
    assert labelled.accuracy(labelled.adversarial) == 0


@pytest.mark.filterwarnings("ignore:model. the logits of:RuntimeWarning")
def test_logits_that_are_not_finite_count_as_misclassified(images):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).eval()
    torch.nn.init.constant_(network[1].weight, math.nan)
    found = verify(*images, epsilon=EPS, model=network)
    assert found.clean.tolist() == [-1] * N
    assert found.accuracy(found.clean) == 0


@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "safetensors", "png", "uint8", "last"])
def test_every_kind_of_file_is_read(tmp_path, images, capsys, kind):
    clean, adversarial = images
    names = [str(tmp_path / f"{name}.{kind}") for name in ("clean", "adv")]
    if kind == "npz":
        np.savez(names[0], x=clean, x_adv=adversarial)
        names[1] = names[0]
    elif kind == "pt":
        for name, values in zip(names, images, strict=True):
            torch.save(torch.from_numpy(values), name)
    elif kind == "safetensors":
        safetensors.numpy.save_file({"first": clean, "second": adversarial}, names[0])
        names = [f"{names[0]}:first", f"{names[0]}:second"]
    else:
        names = [name.removesuffix(f".{kind}") + ".npy" for name in names]
        for name, values in zip(names, images, strict=True):
            if kind == "png":
                folder = tmp_path / name.removesuffix(".npy")
                folder.mkdir()
                for i, image in enumerate(values):
                    pixels = np.moveaxis(np.rint(image * 255).astype(np.uint8), 0, -1)
                    Image.fromarray(pixels).save(folder / f"{i}.png")
            else:
                levels = np.rint(values * 255).astype(np.uint8) if kind == "uint8" else values
                np.save(name, np.moveaxis(levels, 1, -1) if kind == "last" else levels)
        if kind == "png":
            names = [name.removesuffix(".npy") for name in names]
    arguments = ["verify", "--clean", names[0], "--adversarial", names[1], "--json"]
    assert main([*arguments, "--eps", "8/255"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["norm"], found["p"]) == ("Linf", "inf")
    assert found["holds"]
    assert found["samples"] == N
    assert found["norms"]["Linf"]["mean"] == pytest.approx(EPS, rel=1e-5)
    assert main([*arguments, "--eps", "7/255"]) == 1
    assert json.loads(capsys.readouterr().out)["exceeding"] == N


def test_the_command_writes_a_page_a_csv_and_json(tmp_path, capsys):
    images, labels, _ = digits()
    images, labels = images[:8], labels[:8]
    noise = np.random.default_rng(0).standard_normal(images.shape).astype(np.float32)
    adversarial = perturb(images, noise, 0.3)
    path = tmp_path / "sent.npz"
    np.savez(path, clean=images, adversarial=adversarial, labels=labels)
    given = [word for name in ("clean", "adversarial", "labels") for word in (f"--{name}", path)]
    arguments = ["verify", *map(str, given), "--norm", "L2", "--model", "model.weights=bundled"]
    assert main([*arguments, "--eps", "0.3", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "holds: 0 of 8 exceed L2 0.3" in printed
    assert "clean accuracy: 1.0000" in printed
    assert json.loads((tmp_path / "out" / "verification.json").read_text())["clean_accuracy"] == 1
    rows = [*csv.DictReader((tmp_path / "out" / "verification.csv").read_text().splitlines())]
    assert [int(row["label"]) for row in rows] == labels.tolist()
    assert all(float(row["L2"]) == pytest.approx(0.3, rel=1e-6) for row in rows)
    page = (tmp_path / "out" / "verification.html").read_text()
    assert page.count("data:image/png") == 3 * 8
    assert "All claims hold." in page
    assert main([*arguments, "--eps", "0.3", "--robust-accuracy", "0.5"]) == 1
    assert "FAILS: robust accuracy is" in capsys.readouterr().out


def test_a_run_is_checked_against_what_it_stored(tmp_path, capsys):
    attacks = {"pgd": AttackConfig("L2ClipAwarePGD", [0.3, 0.6], params={"steps": 3})}
    folder = tmp_path / "run"
    evaluation = Evaluation(
        attacks=attacks, samples=20, batch_size=8, save="adversarial_examples", output=str(folder)
    )
    rows = evaluate(evaluation).table.to_pandas()
    settings = verify_run(folder)
    assert [one.found.epsilon for one in settings] == [0.3, 0.6]
    for one in settings:
        stored = rows[(rows["epsilon"] == one.found.epsilon) & rows["attacked"]]
        assert one.found.holds
        assert np.array_equal(one.found.norms["L2"], stored["norm"])
        assert np.array_equal(one.found.adversarial, stored["adversarial_prediction"])
        assert np.array_equal(one.found.rounded != one.found.labels, stored["quantised_success"])
    assert main(["verify", str(folder)]) == 0
    assert "L2 0.6" in capsys.readouterr().out
    assert main(["verify", str(folder), "--eps", "1"]) == 2
    assert "--eps: a run says itself" in capsys.readouterr().err

    file = next((folder / "adversarial_examples").iterdir())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["verify", str(folder)]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_run_without_adversarial_examples_says_how_to_keep_them(tmp_path, capsys):
    attacks = {"noise": AttackConfig("L2ClipAwareGaussianNoise", [0.3])}
    evaluate(Evaluation(attacks=attacks, samples=3, output=str(tmp_path / "run")))
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.yaml").write_text("seed: 0")
    for folder, message in (
        (tmp_path / "run", "run it with save=adversarial_examples"),
        (tmp_path, "holds no run"),
        (tmp_path / "trained", "holds no run"),
    ):
        assert main(["verify", str(folder)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": "8/0"}, "eps: '8/0' is no number"),
        ({"epsilon": -1}, "eps: -1 is no number >= 0"),
        ({"norm": "l2"}, "norm: 'l2' is not a norm; did you mean 'L2'"),
        ({"adversarial": np.zeros((2, 3, 8, 8), np.float32)}, "adversarial: has the shape"),
        (
            {"clean": np.full((N, 3, 8, 8), 1.5, np.float32)},
            "clean: values span .* outside the box",
        ),
        ({"adversarial": np.full((N, 3, 8, 8), 128, np.float32)}, "divide images of 0 to 255 by"),
        ({"adversarial": np.full((N, 3, 8, 8), 128)}, "adversarial: holds int64; give floats"),
        ({"labels": [0.5] * N}, "labels: are float64"),
        ({"labels": [1]}, "labels: are int64 of shape"),
        ({"labels": [5] * N, "model": FIVE}, "labels: the class 5 of sample 0 is none of the"),
        ({"model": torch.nn.Linear(3, 3).eval()}, "model: cannot classify images of shape"),
        ({"model": FIVE, "robust_accuracy": 2}, "robust_accuracy: 2 is no part of 1"),
        ({"batch_size": 0.5}, "batch_size: is no whole number"),
        ({"clean": np.ma.masked_array(np.zeros((N, 3, 8, 8)))}, "clean: is a masked array"),
        ({"robust_accuracy": 0.5}, "robust_accuracy: needs a model"),
        ({"clean": np.zeros((0, 3), np.float32)}, "clean: has the shape"),
    ],
)
def test_wrong_arguments_are_named(images, change, message):
    clean, adversarial = images
    given = {"clean": clean, "adversarial": adversarial, "labels": None, "epsilon": EPS, **change}
    with pytest.raises(UserError, match=message):
        verify(**given)


def test_wrong_files_are_one_line(tmp_path, images, capsys):
    good, several = tmp_path / "good.npy", tmp_path / "several.npz"
    np.save(good, images[0])
    np.savez(several, a=images[0], b=images[1])
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}]), allow_pickle=True)
    (tmp_path / "text.txt").write_text("")
    (tmp_path / "cut.pt").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "missing.npy": "--adversarial: there is no file or folder",
        "text.txt": "is none of .npy, .npz, .pt, .pth, .safetensors, nor a folder of pictures",
        "objects.npy": "cannot be read",
        "cut.pt": "cannot be read",
        "empty": "holds no pictures",
        "several.npz": "holds 'a', 'b'; name one, as in several.npz:a",
        "several.npz:c": "has no array 'c'",
        "good.npy:a": "holds one array; leave out :a",
    }.items():
        arguments = ["--clean", str(good), "--adversarial", str(tmp_path / name), "--eps", "0.1"]
        assert main(["verify", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    files = ["--clean", str(good), "--adversarial", str(good), "--eps", "0.1"]
    for arguments, code, message in (
        ([*files, "--output", str(good)], 3, "good.npy cannot be written (File exists)"),
        ([*files, "--output", ""], 2, "--output: is empty"),
        ([*files, "model.weights=a.pt"], 2, "is an override; write --model NAME model.weights"),
        (["--clean", ""], 2, "--clean: is empty"),
    ):
        assert main(["verify", *arguments]) == code
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error

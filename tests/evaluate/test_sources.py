"""Models by name from timm, Hugging Face and RobustBench: random weights, nothing downloaded."""

import json
import re
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foolbox_carescale.evaluate import (
    DataConfig,
    Evaluation,
    EvaluationWarning,
    ModelConfig,
    UserError,
    evaluate,
    write_report,
)
from foolbox_carescale.evaluate.config.compose import load_evaluation
from foolbox_carescale.evaluate.config.types import AttackConfig
from foolbox_carescale.evaluate.data.digits import digits
from foolbox_carescale.evaluate.models.loading import build_network, load_model
from foolbox_carescale.evaluate.models.sources import huggingface
from foolbox_carescale.evaluate.models.sources import timm as source
from foolbox_carescale.evaluate.runner.resolve import resolve

TIMM = "timm/test_resnet.r160_in1k"


@pytest.fixture
def images():
    return torch.from_numpy(digits()[0][:4])


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def offline(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def vit(transformers, tmp_path, monkeypatch):
    """A vision transformer in the folder ``vit`` of the working directory, and its network."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape = {"intermediate_size": 32, "image_size": 32, "patch_size": 8}
    config = transformers.ViTConfig(**small, **shape, num_labels=10)
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained("vit")
    mean = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    side = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=side, resample=3, **mean).save_pretrained("vit")
    return network


def normalized(images):
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]))
    return (images - mean) / std


def test_torchvisions_models_may_be_named_in_full(images):
    torch.manual_seed(0)
    bare, _ = load_model(ModelConfig("squeezenet1_1", None))
    torch.manual_seed(0)
    full, _ = load_model(ModelConfig("torchvision/squeezenet1_1", None))
    assert torch.equal(bare(images), full(images))


def test_a_model_of_timm_has_the_classes_of_the_data_when_it_is_untrained(timm, images):
    model, config = load_model(ModelConfig(TIMM, None, num_classes=7, params={"drop_rate": 0.1}))
    assert model(images).shape == (4, 7)
    assert config.mean is None


def test_weights_of_a_timm_model_in_a_file_are_normalised_as_timm_says(timm, images, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=10).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        run, data = resolve(Evaluation(ModelConfig(TIMM, weights), samples=4))
        assert (run.data.size, run.data.resize, run.data.interpolation) == (160, 168, "bilinear")
        assert data.shape == (3, 160, 160)
        model, config = load_model(run.model)
        assert config.mean == config.std == [0.5] * 3
        assert torch.allclose(model(images), network((images - 0.5) / 0.5), atol=1e-6)


def test_timms_squashed_images_keep_no_aspect_ratio(timm):
    found = source.preset(ModelConfig("timm/tf_efficientnetv2_s.in21k_ft_in1k", "DEFAULT"))
    assert found.class_names[0] == "tench, Tinca tinca"
    assert len(found.class_names) == 1000
    assert (found.size, found.resize) == (300, 300)
    squashed = [
        name
        for name in timm.list_pretrained("convnext_tiny*")
        if timm.get_pretrained_cfg(name).crop_mode == "squash"
    ]
    found = source.preset(ModelConfig(f"timm/{squashed[0]}", "DEFAULT"))
    assert found.resize == [found.size] * 2


def test_a_model_of_timm_takes_its_weights_unless_told_otherwise(timm, monkeypatch):
    made = {}

    def create(name, **arguments):
        made.update(arguments, name=name)
        return torch.nn.Flatten()

    monkeypatch.setattr(timm, "create_model", create)
    evaluation = Evaluation(ModelConfig("timm/resnet50"), DataConfig("foolbox/imagenet"), samples=1)
    run, _ = resolve(evaluation)
    assert run.model.weights == "DEFAULT"
    assert (run.data.size, run.data.resize, run.data.interpolation) == (224, 235, "bicubic")
    _, config = load_model(run.model)
    assert config.num_classes == 1000
    assert config.mean == [0.485, 0.456, 0.406]
    assert made == {"name": "resnet50", "pretrained": True}


def test_a_folder_of_hugging_face_brings_weights_mean_std_and_size(vit, images):
    run, _ = resolve(Evaluation(ModelConfig("hf/./vit"), samples=4))
    assert run.model.weights == "DEFAULT"
    assert (run.data.size, run.data.resize, run.data.interpolation) == (32, [32, 32], "bicubic")
    model, config = load_model(run.model)
    assert config.mean == [0.4, 0.5, 0.6]
    assert config.std == [0.2, 0.25, 0.3]
    assert config.num_classes == 10
    with torch.no_grad():
        expected = vit(normalized(images)).logits
        assert torch.allclose(model(images), expected, atol=1e-5)


def test_weights_of_a_hugging_face_model_may_lie_in_another_file(vit, images, tmp_path):
    with torch.no_grad():
        vit.classifier.bias += 1
    vit.save_pretrained("other")
    torch.save(vit.state_dict(), "own.pt")
    for weights in ("other", "other/model.safetensors", "own.pt"):
        model, _ = load_model(ModelConfig("hf/./vit", weights))
        with torch.no_grad():
            assert torch.allclose(model(images), vit(normalized(images)).logits, atol=1e-5)
    untrained, config = load_model(ModelConfig("hf/./vit", None, num_classes=3))
    assert untrained(images).shape == (4, 3)
    assert config.mean is None


@pytest.mark.usefixtures("without_figures")
def test_a_run_with_a_model_of_hugging_face_shows_the_names_of_its_classes(vit, tmp_path):
    attacks = {"noise": AttackConfig("L2ClipAwareGaussianNoise", [0.5])}
    run = Evaluation(ModelConfig("hf/./vit"), attacks=attacks, samples=40, output=tmp_path / "a")
    results = evaluate(run)
    assert results.complete
    assert results.class_names == []  # LABEL_0, ... are none
    vit.config.id2label = {i: f"digit {i}, or so" for i in range(10)}
    vit.config.save_pretrained("vit")
    results = evaluate(replace(run, output=tmp_path / "b"))
    assert results.class_names[9] == "digit 9, or so"
    written = next(path for path in write_report(results) if path.suffix == ".html")
    assert re.search(r'"label":"\d digit \d"', written.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("said", "size", "resize"),
    [
        ({"size": {"height": 224, "width": 224}}, 224, [224, 224]),
        (
            {
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
            },
            224,
            256,
        ),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 256),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, [384, 384]),
        ({"size": {"shortest_edge": 224}}, 224, 224),
        ({"size": {"height": 224, "width": 192}}, None, None),
        ({"size": {"height": 224, "width": 224}, "do_resize": False}, None, None),
    ],
)
def test_sizes_of_image_processors_become_size_and_resize(said, size, resize):
    assert huggingface._sizes(said) == (size, resize)


def test_pixels_that_are_scaled_and_shifted_are_normalised_alike(vit, transformers, images):
    transformers.EfficientNetImageProcessor(
        size={"height": 32, "width": 32}, rescale_offset=True, rescale_factor=1 / 127.5
    ).save_pretrained("vit")
    found = huggingface.preset(ModelConfig("hf/./vit", "DEFAULT"))
    pixels = (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    processor = transformers.AutoImageProcessor.from_pretrained("vit")
    expected = processor(list(pixels), return_tensors="pt")["pixel_values"]
    scaled = np.moveaxis(pixels / 255, -1, 1).astype(np.float32)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (found.mean, found.std))
    assert np.allclose((scaled - mean) / std, expected, atol=1e-4)


def test_a_model_whose_colours_are_in_another_order_is_refused(vit, transformers):
    transformers.MobileViTImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained("vit")
    with pytest.raises(UserError, match="in another order than red, green, blue"):
        huggingface.preset(ModelConfig("hf/./vit", "DEFAULT"))


def test_a_head_without_weights_is_warned_about(vit, transformers):
    transformers.ViTModel(vit.config).save_pretrained("vit")
    with pytest.warns(UserWarning, match=r"has no weights for classifier\.bias.* meaningless"):
        load_model(ModelConfig("hf/./vit"))


def test_half_precision_on_disk_computes_in_float32(vit, images):
    vit.half().save_pretrained("vit")
    network, _ = build_network(ModelConfig("hf/./vit"))
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_without_an_image_processor_mean_and_std_are_asked_for(vit, tmp_path, images):
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"model.mean, model.std: hf/./vit has no image processor"):
        load_model(ModelConfig("hf/./vit"))
    model, _ = load_model(ModelConfig("hf/./vit", mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3]))
    assert model(images).shape == (4, 10)


def test_code_of_a_models_repository_runs_only_with_allow_code(vit, tmp_path):
    path = tmp_path / "vit" / "config.json"
    classes = {"AutoConfig": "mine.C", "AutoModelForImageClassification": "mine.M"}
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "auto_map": classes} | {"model_type": "mine"})
    )
    (tmp_path / "vit" / "mine.py").write_text("open('ran', 'w')\n")
    with pytest.raises(UserError, match=r"brings code of its own; .* add --allow-code"):
        load_model(ModelConfig("hf/./vit", mean=[0.5] * 3, std=[0.5] * 3))
    assert not (tmp_path / "ran").exists()
    trusting = ["model.name=hf/./vit", "+model.params.trust_remote_code=true"]
    with pytest.raises(UserError, match=r"model\.params\.trust_remote_code: .* --allow-code"):
        load_evaluation(None, trusting)
    run = load_evaluation(None, trusting, allow_code=True)
    assert run.model.params == {"trust_remote_code": True}


def test_weights_of_hugging_face_in_a_pickle_are_refused(vit, tmp_path):
    (tmp_path / "vit" / "model.safetensors").unlink()
    torch.save(vit.state_dict(), tmp_path / "vit" / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no weights in safetensors"):
        load_model(ModelConfig("hf/./vit"))


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (ModelConfig("timm/resnet5o"), "timm has no model 'resnet5o'; did you mean 'resnet50'"),
        (ModelConfig("timm/resnet50.a1_in2k"), "timm has no weights 'resnet50.a1_in2k'; did you"),
        (ModelConfig("timm/hf-hub:some/model"), "timm has no model 'hf-hub:some/model'"),
        (ModelConfig(TIMM, "IMAGENET1K_V1"), "give DEFAULT for those of timm/test_resnet"),
        (ModelConfig(TIMM, "no/such.pt"), "model.weights: 'no/such.pt' is no such file"),
        (ModelConfig(TIMM, num_classes=3), "model.num_classes: the weights of timm/test_resnet"),
        (ModelConfig(TIMM), "model.name: timm/test_resnet.r160_in1k cannot be loaded"),
        (ModelConfig(TIMM, None, params={"foo": 1}), "timm cannot build timm/test_resnet"),
        (ModelConfig(TIMM, None, params={"pretrained": True}), "model.params.pretrained: is not"),
        (ModelConfig("timm/vit_small_patch14_dinov2.lvd142m"), "timm has no classifier for"),
    ],
)
def test_a_model_of_timm_that_cannot_be_had_is_one_line(timm, offline, config, line):
    assert line in refusal(config)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (ModelConfig("hf/./nothing"), "model.name: there is no folder"),
        (ModelConfig("hf/some/model"), "model.name: hf/some/model cannot be loaded"),
        (ModelConfig("hf/./vit", "v2"), "give DEFAULT for those of hf/./vit"),
        (ModelConfig("hf/./vit", num_classes=3), "hf/./vit has 10 classes, not 3"),
        (ModelConfig("hf/./vit", params={"pretrained": 0}), "model.params.pretrained: there is no"),
        (ModelConfig("hf/./vit", params={"attn_implementation": "a/b"}), "there is no 'a/b'"),
        (ModelConfig("hf/./vit", "wrong.pt"), "wrong.pt does not fit hf/./vit with 10 classes"),
    ],
)
def test_a_model_of_hugging_face_that_cannot_be_had_is_one_line(vit, offline, config, line):
    torch.save({"weight": torch.zeros(1)}, "wrong.pt")
    assert line in refusal(config)


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("timm/resnet50", "timm", "pip install 'foolbox-carescale[timm]'"),
        ("hf/some/model", "transformers", "pip install 'foolbox-carescale[huggingface]'"),
        ("robustbench/Some2020Model", "robustbench", "pip install robustbench"),
    ],
)
def test_a_missing_package_is_one_line_with_the_command(name, package, command, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(ModelConfig(name)) == f"model.name: {name} needs {package}; run: {command}"


def refusal(config):
    with pytest.raises(UserError) as caught:
        load_model(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_models_of_robustbench_take_images_as_they_are(monkeypatch, images):
    asked = {}

    def fake(name, **arguments):
        asked.update(arguments, name=name)
        return torch.nn.Flatten()

    utils = types.SimpleNamespace(load_model=fake)
    monkeypatch.setitem(sys.modules, "robustbench", types.SimpleNamespace(utils=utils))
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    config = ModelConfig("robustbench/Some2020Model", params={"threat_model": "L2"})
    model, config = load_model(config)
    assert asked == {"name": "Some2020Model", "threat_model": "L2"}
    assert (config.num_classes, config.mean) == (10, None)
    assert torch.equal(model(images), images.flatten(1))
    assert "comes with its own weights" in refusal(ModelConfig("robustbench/Some2020Model", None))
    assert "'cifar10'" in refusal(ModelConfig("robustbench/A", params={"dataset": "cifar"}))
    assert "'dataset'" in refusal(ModelConfig("robustbench/A", params={"data": "cifar10"}))


class Carrying(torch.nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return x.flatten(1)[:, :2]


def carrying(tensors=False):
    wrap = torch.tensor if tensors else list
    return Carrying(wrap([0.5]), wrap([0.25])).eval()


def test_a_module_of_ones_own_may_carry_mean_and_std():
    images, target = torch.rand(2, 1, 4, 4), f"{__name__}.carrying"
    with pytest.warns(EvaluationWarning, match=r"carries, \[0\.5\] and \[0\.25\].* zeros and ones"):
        model, config = load_model(ModelConfig(_target_=target))
    assert (config.mean, config.std) == ([0.5], [0.25])
    assert torch.equal(model(images), ((images - 0.5) / 0.25).flatten(1)[:, :2])
    own, config = load_model(ModelConfig(_target_=target, params={"tensors": True}))
    assert config.mean is None
    assert torch.equal(own(images), images.flatten(1)[:, :2])
    given, config = load_model(ModelConfig(_target_=target, mean=[0.0], std=[1.0]))
    assert torch.equal(given(images), images.flatten(1)[:, :2])

import numpy as np
import pytest
from PIL import Image

from foolbox_carescale.evaluate import DataConfig, UserError
from foolbox_carescale.evaluate.data import load_data


def scaled(low=0.0, high=1.0):
    images = np.linspace(low, high, 4 * 3 * 5 * 5, dtype=np.float32).reshape(4, 3, 5, 5)
    return images, np.arange(4)


def pairs():
    return list(zip(*scaled(), strict=True))


def uneven():
    return [(np.zeros((3, 4, 4)), 0), (np.zeros((3, 5, 5)), 1)]


def neither():
    return 3


def target(name, **params):
    return DataConfig(_target_=f"{__name__}.{name}", params=params)


def test_digits_are_rgb_images_in_bounds_drawn_without_replacement():
    data = load_data(DataConfig(), 50)
    assert data.images.shape == (50, 3, 32, 32)
    assert data.images.dtype == np.float32
    assert data.images.min() == 0
    assert data.images.max() == 1
    assert len(set(data.index.tolist())) == 50
    assert data.num_classes == 10


def test_another_seed_draws_other_samples():
    first, again = load_data(DataConfig(), 20), load_data(DataConfig(), 20)
    other = load_data(DataConfig(seed=1), 20)
    assert np.array_equal(first.index, again.index)
    assert not np.array_equal(first.index, other.index)


def test_asking_for_more_than_there_is_takes_all():
    assert len(load_data(DataConfig(), 10**6)) == 599
    assert len(load_data(DataConfig(), None)) == 599


def test_foolboxs_imagenet_samples_are_what_foolbox_gives():
    from foolbox.utils import _samples

    data = load_data(DataConfig("foolbox/imagenet"), None)
    images, labels = _samples("imagenet", 0, 20, (224, 224), "channels_first", (0, 1))
    assert np.allclose(data.images, images)
    assert np.array_equal(data.labels, labels)
    assert data.num_classes == 1000


def test_grey_samples_become_rgb():
    assert load_data(DataConfig("foolbox/mnist"), 2).images.shape == (2, 3, 28, 28)


def test_an_image_folder_gives_one_class_per_directory_at_the_size_asked_for(tmp_path):
    for name, shape in (("cat", (40, 60)), ("dog", (50, 30))):
        (tmp_path / name).mkdir()
        Image.new("RGB", shape, "white").save(tmp_path / name / "1.png")
    data = load_data(DataConfig("folder", root=str(tmp_path), size=16))
    assert data.images.shape == (2, 3, 16, 16)
    assert data.labels.tolist() == [0, 1]
    assert data.num_classes == 2
    with pytest.raises(UserError, match=r"data\.size: is null, but images differ in size"):
        load_data(DataConfig("folder", root=str(tmp_path)))


def test_torchvisions_data_sets_are_found_by_name():
    params = {"size": 6, "image_size": [3, 8, 8], "num_classes": 4}
    data = load_data(DataConfig("FakeData", params=params), 3)
    assert data.images.shape == (3, 3, 8, 8)
    assert data.images.max() <= 1


@pytest.mark.parametrize("name", ["scaled", "pairs"])
def test_data_of_ones_own_are_arrays_or_pairs(name):
    data = load_data(target(name))
    assert data.images.shape == (4, 3, 5, 5)
    assert data.labels.tolist() == [0, 1, 2, 3]


def test_rounding_outside_the_bounds_is_forgiven_and_clipped():
    data = load_data(target("scaled", low=-2.98e-8, high=1 + 1e-6))
    assert data.images.min() == 0
    assert data.images.max() == 1


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (target("scaled", low=-2.1, high=2.6), "pixels of .* span .-2.1, 2.6., outside"),
        (target("scaled", high=float("nan")), "span .nan, nan., outside"),
        (target("uneven"), r"images differ in size"),
        (target("neither"), "returned int"),
        (DataConfig("CIFAR01"), "did you mean 'CIFAR10'"),
        (DataConfig("CIFAR10"), r"data\.root: is missing"),
        (DataConfig("CIFAR10", root="/nowhere"), "torchvision cannot open CIFAR10"),
        (DataConfig("foolbox/imagenett"), "did you mean 'foolbox/imagenet'"),
        (DataConfig("folder"), r"data\.root: is missing"),
        (DataConfig("folder", root="/nowhere"), "there is no directory '/nowhere'"),
        (DataConfig("FakeData", params={"sze": 3}), r"data\.params\.sze: .* did you mean 'size'"),
    ],
)
def test_data_that_cannot_be_used_are_one_line(config, line):
    with pytest.raises(UserError, match=line) as caught:
        load_data(config)
    assert "\n" not in str(caught.value)

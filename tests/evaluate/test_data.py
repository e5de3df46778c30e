import dataclasses
import os
import threading
import time
from pathlib import Path

import foolbox
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights

from foolbox_carescale.evaluate import DataConfig, EvaluationWarning, UserError
from foolbox_carescale.evaluate.data import dataset
from foolbox_carescale.evaluate.data.dataset import Source
from foolbox_carescale.evaluate.data.decoding import scaled as scaled_pixels
from foolbox_carescale.evaluate.data.decoding import scaled_on
from foolbox_carescale.evaluate.data.sources import _data_set, load_data, open_source


def scaled(low=0.0, high=1.0):
    images = np.linspace(low, high, 4 * 3 * 5 * 5, dtype=np.float32).reshape(4, 3, 5, 5)
    return images, np.arange(4)


def pairs():
    return list(zip(*scaled(), strict=True))


def uneven():
    return [(np.zeros((3, 4, 4)), 0), (np.zeros((3, 5, 5)), 1)]


def neither():
    return 3


class Counted:
    """Says how often each image was decoded."""

    classes = ("cat", "dog", "hen")

    def __init__(self, length=12):
        self.length, self.decoded = length, []

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        self.decoded.append(i)
        return np.full((3, 4, 4), i / self.length, np.float32), i % 3


def counted():
    return Counted()


def labelled_by_boxes():
    return [(np.zeros((3, 4, 4)), {"boxes": []})]


def labelled_by_halves():
    return scaled()[0], np.array([0, 0.5, 1, 2])


def labelled_by_one_hot():
    return scaled()[0], np.eye(4)


def unlabelled():
    return list(scaled()[0])


def missing():
    return [None]


def no_image():
    return [(None, 0)]


def other_keys():
    return [{"x": 0, "y": 1}]


def fewer_labels():
    return scaled()[0], np.arange(3)


class Raising(list):
    def __getitem__(self, i):
        raise KeyError("disk")


def raising():
    return Raising([0])


def nothing():
    return []


def labelled_below_zero():
    return scaled()[0], np.array([0, -1, 1, 2])


class Tagged(Counted):
    """Also holds several tags for each image."""

    targets = np.zeros((12, 2), int)


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


def folder_of(root, **images):
    """Save one image per class folder."""
    for name, image in images.items():
        (root / name).mkdir(parents=True)
        image.save(root / name / "1.png")
    return DataConfig("folder", root=str(root))


def grey_steps(dtype=np.uint16):
    return np.linspace(0, np.iinfo(dtype).max, 16, dtype=dtype).reshape(4, 4)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("size", [None, 4])
def test_images_of_16_bits_are_scaled_and_not_cut_to_white(tmp_path, ending, size):
    steps = grey_steps()
    (tmp_path / "cat").mkdir()
    Image.fromarray(steps).save(tmp_path / "cat" / f"1.{ending}")
    data = load_data(DataConfig("folder", root=str(tmp_path), size=size))
    expected = np.broadcast_to(steps.astype(np.float32) / 65535, (1, 3, 4, 4))
    assert np.allclose(data.images, expected, atol=1e-6)


def test_images_of_16_bits_in_a_data_set_of_ones_own_are_scaled_too():
    source = _data_set("own", [(Image.fromarray(grey_steps()), 0)])
    images = source.read(DataConfig(), None).images
    assert np.allclose(images[0, 1], grey_steps() / 65535, atol=1e-6)


def gtsrb(root):
    """Save one image where torchvision's GTSRB looks for it; return its file and the config."""
    path = root / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / "0.ppm"
    path.parent.mkdir(parents=True)
    (root / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n0.ppm;3\n")
    return path, DataConfig("GTSRB", root=str(root))


def oxford_pets(root):
    """Do the same for OxfordIIITPet."""
    path = root / "oxford-iiit-pet" / "images" / "cat_1.jpg"
    path.parent.mkdir(parents=True)
    (root / "oxford-iiit-pet" / "annotations").mkdir()
    (root / "oxford-iiit-pet" / "annotations" / "test.txt").write_text("cat_1 4 1 1\n")
    return path, DataConfig("OxfordIIITPet", root=str(root))


def image_folder(root):
    """Do the same for ImageFolder with torchvision's own loader."""
    path = root / "cat" / "1.png"
    path.parent.mkdir(parents=True)
    return path, DataConfig(_target_="torchvision.datasets.ImageFolder", root=str(root))


@pytest.mark.parametrize("kind", [gtsrb, oxford_pets, image_folder])
def test_torchvisions_data_sets_that_cut_images_to_8_bits_are_read_in_full_depth(tmp_path, kind):
    path, config = kind(tmp_path)
    Image.fromarray(grey_steps()).save(path, format="png")
    assert np.allclose(load_data(config).images[0, 1], grey_steps() / 65535, atol=1e-6)
    colors = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(colors).save(path, format="png")
    assert np.allclose(load_data(config).images[0], np.moveaxis(colors, -1, 0) / 255)
    Image.fromarray(grey_steps().astype(np.int32) * 1000).save(path, format="tiff")
    with pytest.raises(UserError, match=f"{path} has 32 bits per pixel"):
        load_data(config)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"sample 0 of .* cannot be read"):
        load_data(config)


def test_a_pgm_of_16_bits_is_scaled_like_a_png(tmp_path):
    (tmp_path / "cat").mkdir()
    head = b"P5 4 4 65535\n"
    (tmp_path / "cat" / "1.pgm").write_bytes(head + grey_steps().astype(">u2").tobytes())
    images = load_data(DataConfig("folder", root=str(tmp_path))).images
    assert np.allclose(images[0, 1], grey_steps() / 65535, atol=1e-6)


def test_images_of_floats_are_taken_as_they_are_in_0_to_1_and_named_otherwise(tmp_path):
    (tmp_path / "cat").mkdir()
    floats = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    path = tmp_path / "cat" / "1.tif"
    Image.fromarray(floats).save(path)
    config = DataConfig("folder", root=str(tmp_path))
    assert np.array_equal(load_data(config).images[0, 0], floats)
    for unknown in (floats * 255, (floats * 1e9).astype(np.int32)):
        Image.fromarray(unknown).save(path)
        with pytest.raises(UserError, match=f"{path} has 32 bits per pixel"):
            load_data(config)


def test_hidden_folders_and_files_are_no_classes_and_no_images(tmp_path):
    white = Image.new("RGB", (4, 4), "white")
    config = folder_of(tmp_path, **{".ipynb_checkpoints": white, "cat": white, "dog": white})
    (tmp_path / "cat" / "._1.png").write_bytes(b"resource fork")
    inner = tmp_path / "dog" / ".ipynb_checkpoints"
    inner.mkdir()
    white.save(inner / "1-checkpoint.png")
    data = load_data(config)
    assert data.labels.tolist() == [0, 1]
    assert data.num_classes == 2


def test_folders_named_by_numbers_are_ordered_by_number(tmp_path):
    greys = {str(i): Image.new("L", (2, 2), 20 * i) for i in range(11)}
    config = folder_of(tmp_path, **greys)
    data = load_data(config)
    assert sorted(data.labels.tolist()) == list(range(11))
    assert np.allclose(data.images[:, 0, 0, 0] * 255, 20 * data.labels)
    for classes in ([2], ["2"]):
        chosen = load_data(dataclasses.replace(config, classes=classes))
        assert chosen.labels.tolist() == [2]
        assert np.allclose(chosen.images * 255, 40)


def test_folders_named_by_other_numbers_than_their_labels_are_warned_about(tmp_path):
    config = folder_of(tmp_path, **{n: Image.new("L", (2, 2), int(n)) for n in ("3", "7", "20")})
    with pytest.warns(EvaluationWarning, match="labels are 0 for '3', 1 for '7', 2 for '20'; name"):
        data = load_data(dataclasses.replace(config, classes=[7]))
    assert np.allclose(data.images * 255, 7)


def test_a_class_that_is_a_number_is_the_folder_of_that_number(tmp_path):
    # YAML reads 002 as the number 2
    config = folder_of(tmp_path, **{f"00{n}": Image.new("L", (2, 2), n) for n in (1, 2, 3)})
    with pytest.warns(EvaluationWarning, match="labels are 0 for '001'"):
        data = load_data(dataclasses.replace(config, classes=[2]))
    assert np.allclose(data.images * 255, 2)
    with (
        pytest.warns(EvaluationWarning, match="labels are 0"),
        pytest.raises(UserError, match="has no class 0"),
    ):
        load_data(dataclasses.replace(config, classes=[0]))


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["0", "1", "2", "10", "bg"], "mix numbers and names: their labels are 0 for '0', 1 for"),
        (["-1", "0", "1"], "are numbers, but not 0 to 2: their labels are 0 for '-1', 1 for '0'"),
        (["-10", "-9", "x-1"], "mix numbers and names: their labels are 0 for '-10', 1 for '-9', "),
        ([*map(str, range(20)), "bg"], r"10 for '10', \.\.\., 20 for 'bg'; name the folders by"),
    ],
)
def test_numbers_come_first_by_value_and_the_order_is_said_where_it_may_surprise(
    tmp_path, names, line
):
    config = folder_of(tmp_path, **{n: Image.new("L", (2, 2), i) for i, n in enumerate(names)})
    with pytest.warns(EvaluationWarning, match=line) as said:
        data = load_data(config)
    assert len(said) == 1
    assert np.array_equal(np.rint(data.images[:, 0, 0, 0] * 255), data.labels)


def test_files_that_are_no_images_are_counted_by_their_endings(tmp_path):
    config = folder_of(tmp_path, cat=Image.new("L", (2, 2)), dog=Image.new("L", (2, 2)))
    for name in ("cat/a.npy", "cat/b.SVG", "dog/c.svg", "dog/README", "dog/.DS_Store", "list.txt"):
        (tmp_path / name).write_text("")
    line = r"4 of 6 entries .* left out, .* \(\.svg: 2, \.npy: 1, without an ending: 1\)"
    with pytest.warns(EvaluationWarning, match=line) as said:
        data = load_data(config)
    assert len(said) == 1
    assert data.labels.tolist() == [0, 1]


def test_of_a_gif_the_first_picture_is_read(tmp_path):
    config = folder_of(tmp_path, cat=Image.new("L", (2, 2)))
    white, black = (Image.new("L", (2, 2), level) for level in (255, 0))
    white.save(tmp_path / "cat" / "2.GIF", save_all=True, append_images=[black])
    images = load_data(config).images
    assert images.shape == (2, 3, 2, 2)
    assert (images[1] == 1).all()


def test_links_to_folders_are_not_followed_below_a_class_folder(tmp_path):
    greys = {name: Image.new("L", (2, 2), 10 * i) for i, name in enumerate("abc")}
    config = folder_of(tmp_path / "photos", **greys)
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    (photos / "a" / "loop").symlink_to("..", target_is_directory=True)
    (photos / "a" / "other").symlink_to(photos / "b", target_is_directory=True)
    (photos / "c").rename(elsewhere)
    (photos / "c").symlink_to(elsewhere, target_is_directory=True)
    (photos / "b" / "2.png").symlink_to(elsewhere / "1.png")
    with pytest.warns(EvaluationWarning, match=r"2 of 6 entries .* \(links to folders: 2\)"):
        data = load_data(config)
    assert data.labels.tolist() == [0, 1, 1, 2]
    assert np.rint(data.images[:, 0, 0, 0] * 255).tolist() == [0, 10, 20, 20]


def test_a_link_to_a_sibling_is_a_class_of_its_own_and_warned_about(tmp_path):
    greys = {name: Image.new("L", (2, 2), 10 * int(name)) for name in "01"}
    config = folder_of(tmp_path, **greys)
    (tmp_path / "2").symlink_to("1", target_is_directory=True)
    with pytest.warns(EvaluationWarning, match="hold the same files, by links: '1' and '2'; "):
        data = load_data(config)
    assert data.labels.tolist() == [0, 1, 2]
    assert np.rint(data.images[:, 0, 0, 0] * 255).tolist() == [0, 10, 10]


def test_a_class_folder_that_links_to_nothing_is_one_line(tmp_path):
    config = folder_of(tmp_path, **{"0": Image.new("L", (2, 2)), "1": Image.new("L", (2, 2))})
    (tmp_path / "2").symlink_to("../1", target_is_directory=True)
    with pytest.raises(UserError, match=r"data\.root: '.*2' is a link to '\.\./1', which does not"):
        load_data(config)


def test_a_class_folder_that_leads_to_a_folder_above_is_one_line(tmp_path):
    config = folder_of(tmp_path, cat=Image.new("L", (2, 2)))
    for target in (".", ".."):
        (tmp_path / "loop").symlink_to(target, target_is_directory=True)
        with pytest.raises(UserError, match=r"data\.root: '.*loop' is a link to a folder above"):
            load_data(config)
        (tmp_path / "loop").unlink()


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("cut", "truncated"),
        ("empty", "it is empty"),
        ("text", "cannot identify image file"),
        ("dangling", "there is no such file"),
        ("fifo", "it is no file"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_one_line_with_its_path(tmp_path, kind, line):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    config = folder_of(tmp_path, cat=Image.fromarray(pixels))
    path = tmp_path / "cat" / "1.png"
    content = path.read_bytes()
    path.unlink()
    if kind == "dangling":
        path.symlink_to(tmp_path / "nowhere.png")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes({"cut": content[:4000], "empty": b"", "text": b"not an image"}[kind])
    with pytest.raises(UserError, match=line) as caught:
        load_data(config)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parameter_that_a_folder_does_not_take_is_one_line(tmp_path):
    config = folder_of(tmp_path, cat=Image.new("L", (2, 2)))
    with pytest.raises(UserError, match=r"data\.params\.alow_empty: .* 'allow_empty'"):
        load_data(dataclasses.replace(config, params={"alow_empty": True}))


def test_a_folder_without_one_directory_per_class_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not hold one directory of images per class"):
        load_data(DataConfig("folder", root=str(tmp_path)))


def test_size_and_interpolation_are_those_of_torchvisions_presets():
    preset = ResNet18_Weights.DEFAULT.transforms()
    config = DataConfig("foolbox/imagenet", size=224, resize=256, interpolation="bilinear")
    data = load_data(config, 3)
    folder = Path(foolbox.__file__).parent / "data"
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (preset.mean, preset.std))
    for image, sample in zip(data.images, data.index, strict=True):
        with Image.open(next(folder.glob(f"imagenet_{sample:02d}_*"))) as picture:
            expected = preset(picture.convert("RGB")).numpy()
        assert np.allclose((image - mean) / std, expected, atol=1e-5)


def test_bicubic_interpolation_of_arrays_stays_in_bounds():
    config = target("checkerboard")
    config.size, config.interpolation = 9, "bicubic"
    data = load_data(config)
    assert data.images.shape == (1, 3, 9, 9)
    assert data.images.min() >= 0.2
    assert data.images.max() <= np.float32(0.8)


def checkerboard():
    board = np.indices((16, 16)).sum(0) % 2 * 0.6 + 0.2
    return np.broadcast_to(board, (1, 3, 16, 16)), np.array([0])


def test_only_the_samples_asked_for_are_decoded_and_each_once():
    source = Counted(10_000)
    data = _data_set("counted", source).read(DataConfig(), 5)
    assert source.decoded == data.index.tolist()
    assert len(set(source.decoded)) == 5


def test_a_batch_is_decoded_when_it_is_asked_for_and_kept_for_a_while():
    source = Counted(10_000)
    data = _data_set("counted", source).choose(DataConfig(), 500)
    assert (len(data), data.labels, data.num_classes, source.decoded) == (500, None, 3, [])
    everything = _data_set("counted", Counted(10_000)).read(DataConfig(), 500)
    for _ in range(2):
        batch = data.batch(np.arange(100, 104))
    assert source.decoded == batch.index.tolist() == data.index[100:104].tolist()
    assert np.array_equal(batch.images, everything.images[100:104])
    assert batch.hashes == everything.hashes[100:104]
    for start in (0, 4, 100):
        data.batch(np.arange(start, start + 4))
    assert source.decoded == data.index[[*range(100, 104), *range(8), *range(100, 104)]].tolist()


def eight_bits(**told):
    """Return a data set of 12 small PIL images, and what notes who read which."""
    read = []

    def get(i):
        read.append((i, threading.current_thread().name))
        if i == 7:
            raise OSError("a hole in the disk")
        pixels = np.random.default_rng(i).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        return Image.fromarray(pixels), i % 3

    return Source("photos", 12, get, **told), read


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("carescale-data")]


def test_threads_decode_ahead_what_is_then_not_decoded_again():
    source, read = eight_bits(threads=True)
    data = source.choose(DataConfig(workers=2), None)
    plain = eight_bits(threads=True)[0].choose(DataConfig(workers=0), None)
    for positions in ([0, 1, 2], [3, 4]):
        data.prefetch(positions)
    while len(read) < 5:
        time.sleep(0.001)
    for positions in ([0, 1, 2], [3, 4], [8]):
        data.prefetch(positions)  # once is enough
        batch, expected = data.batch(positions), plain.batch(positions)
        assert np.array_equal(batch.images, expected.images)
        assert (batch.hashes, batch.labels.tolist()) == (expected.hashes, expected.labels.tolist())
        assert batch.pixels.dtype == np.uint8
    assert sorted(i for i, _ in read) == [0, 1, 2, 3, 4, 8]
    assert all(name.startswith("carescale-data") for _, name in read)
    data.prefetch([9, 10, 11])
    data.close()
    assert not reading_threads()
    assert len(data.batch([9, 10, 11])) == 3
    data.close()


def test_an_error_ahead_is_that_of_its_batch_alone():
    data = eight_bits(threads=True)[0].choose(DataConfig(workers=2), None)
    data.prefetch([6, 7])
    assert len(data.batch([5])) == 1
    for _ in range(2):
        with pytest.raises(UserError, match=r"sample 7 of photos cannot be read .* hole"):
            data.batch([6, 7])
    data.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_cannot_be_read_are_skipped_where_that_is_asked_for(workers):
    source = eight_bits(threads=True)[0]
    data = source.choose(DataConfig(workers=workers, on_error="skip"), None)
    for positions in ([6, 7, 8], [8, 6]):
        data.prefetch(positions)
        batch = data.batch(positions)
        assert batch.index.tolist() == [place for place in positions if place != 7]
        assert batch.labels.tolist() == [place % 3 for place in batch.index]
        assert list(batch.skipped) == [7] * (7 in positions)
    with pytest.raises(UserError, match="none of 1 samples of a batch can be read; data: sample 7"):
        data.batch([7])
    data.close()
    first = Source("first", 2, lambda i: source.get(7 + i))
    assert first.choose(DataConfig(on_error="skip"), None).shape == (3, 6, 5)
    with pytest.raises(UserError, match="sample 0 of first cannot be read"):
        _ = first.choose(DataConfig(), None).shape
    with pytest.warns(EvaluationWarning, match=r"1 of 12 samples are left out \(data: sample 7"):
        assert len(source.read(DataConfig(on_error="skip"), None)) == 11


@pytest.mark.parametrize(("workers", "threads"), [(None, False), (0, True)])
def test_data_that_threads_must_not_read_are_read_when_they_are_needed(workers, threads):
    source, read = eight_bits(threads=threads)
    data = source.choose(DataConfig(workers=workers), None)
    data.prefetch([0])
    assert read == []
    data.batch([0])
    assert read == [(0, threading.current_thread().name)]


def test_which_data_threads_read():
    names = ("foolbox/mnist", "digits", "FakeData")
    assert [open_source(DataConfig(name)).threads for name in names] == [True, False, False]
    assert not open_source(target("counted")).threads
    assert not open_source(target("scaled")).threads


def test_eight_bits_become_the_same_floats_in_torch_and_in_numpy():
    values = np.arange(256, dtype=np.uint8)
    expected = np.asarray(values, np.float32) / np.float32(255)
    assert np.array_equal(scaled_pixels(values), expected)
    for name in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        in_torch = scaled_on(torch.device(name), values)
        assert np.array_equal(in_torch.cpu().numpy(), expected)


def test_data_in_another_process_are_the_same():
    data = open_source(DataConfig("foolbox/mnist")).choose(DataConfig(seed=3), 5)
    data.batch([0])
    cloudpickle = pytest.importorskip("cloudpickle")  # as Ray does
    again = cloudpickle.loads(cloudpickle.dumps(data))
    assert np.array_equal(again.index, data.index)
    assert again.batch([1, 4]).hashes == data.batch([1, 4]).hashes


def test_every_batch_is_checked_as_it_is_read():
    images, labels = scaled()
    for column, value, line in (
        (images, 3.0, r"span \[0, 3\]"),
        (images, np.nan, "span .nan"),
        (labels, -1, "has the label -1"),
    ):
        changed = column.copy()
        changed[3] = value
        pair = (changed, labels) if column is images else (images, changed)
        data = _data_set("own", list(zip(*pair, strict=True))).choose(DataConfig(), None)
        data.batch([0, 1, 2])
        with pytest.raises(UserError, match=line):
            data.batch([0, 3])
    uneven = _data_set("uneven", [(np.zeros((3, n, n)), 0) for n in (4, 4, 5)])
    data = uneven.choose(DataConfig(), None)
    assert data.shape == (3, 4, 4)
    with pytest.raises(UserError, match="images differ in size"):
        data.batch([2])


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        (list(range(4)), True),
        (torch.arange(4), True),
        ([[0], [1, 2], [3], [4]], False),  # tags
        ([{"boxes": []}] * 4, False),
        (np.arange(4) / 2, False),
    ],
)
def test_labels_beside_the_images_are_known_before_anything_is_decoded(labels, known):
    class Labelled(Counted):
        targets = labels

    data = _data_set("labelled", Labelled(4)).choose(DataConfig(), None)
    assert (data.labels is not None) is known
    if known:
        assert data.labels.tolist() == [0, 1, 2, 3]
        assert data.num_classes == 4
    assert data.batch([3]).labels.tolist() == [0]  # the sample itself has the last word


def test_an_index_file_gives_these_samples_in_this_order(tmp_path):
    everything = load_data(DataConfig())
    chosen = everything.index[[7, 3, 500]]
    path = tmp_path / "index.txt"
    path.write_text("# sample\n" + "\n".join(map(str, chosen)) + "\n", encoding="utf-8")
    data = load_data(DataConfig(index=str(path)))
    assert data.index.tolist() == chosen.tolist()
    assert np.array_equal(data.images, everything.images[[7, 3, 500]])
    fewer = load_data(DataConfig(index=str(path), seed=3), 2)
    assert len(fewer) == 2
    assert set(fewer.index) < set(chosen)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0\n0\n", "names a sample twice"),
        ("", "names no sample"),
        ("0\n1e3\n", "line 2 of .* is '1e3'"),
        ("99\n", "counted has no sample 99"),
        ("9" * 5000, "line 1 of .* is '9{40}'"),
        (None, "cannot be read"),
    ],
)
def test_an_index_file_that_cannot_be_used_is_one_line(tmp_path, text, line):
    path = tmp_path / "index.txt"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=line):
        load_data(dataclasses.replace(target("counted"), index=str(path)))


def test_an_index_is_read_from_a_regular_file_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "MOST_INDEX", 4)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_text("1\n2\n3\n", encoding="utf-8")
    for name, line in (
        ("/dev/zero", "it is not a file"),
        (str(tmp_path / "fifo"), "it is not a file"),
        (str(tmp_path), "it is not a file"),
        (str(tmp_path / "large"), "it is larger than 4 bytes"),
    ):
        with pytest.raises(UserError, match=rf"data\.index: '{name}' cannot be read \({line}"):
            load_data(DataConfig(index=name))


def test_classes_are_chosen_by_number_or_name():
    for classes in ([2, 0], ["hen", "cat"], ["2", "cat"]):
        data = load_data(dataclasses.replace(target("counted"), classes=classes))
        assert set(data.labels.tolist()) == {0, 2}
        assert len(data) == 8
        assert data.num_classes == 3
    drawn = load_data(DataConfig(classes=[4]), 10)
    assert drawn.labels.tolist() == [4] * 10


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        (["hne"], "has no class 'hne'; did you mean 'hen'"),
        ([3], "has no class 3; valid: 'cat', 'dog', 'hen'"),
        (["9" * 5000], "has no class '999"),
        ([], "has no sample of"),
    ],
)
def test_classes_that_are_not_there_are_one_line(classes, line):
    with pytest.raises(UserError, match=line):
        load_data(dataclasses.replace(target("counted"), classes=classes))


def test_torchvisions_data_sets_are_found_by_name():
    params = {"size": 6, "image_size": [3, 8, 8], "num_classes": 4}
    data = load_data(DataConfig("FakeData", params=params), 3)
    assert data.images.shape == (3, 3, 8, 8)
    assert data.images.max() <= 1


@pytest.mark.parametrize("split", ["test", "train"])
def test_what_to_evaluate_with_and_what_to_train_on_are_splits_of_a_data_set(tmp_path, split):
    for name in ("train", "val", "test"):
        for label in ("negative", "positive"):
            folder = tmp_path / "rendered-sst2" / name / label
            folder.mkdir(parents=True)
            Image.new("L", (4, 4), "white" if name == split else "black").save(folder / "1.png")
    data = open_source(DataConfig("RenderedSST2", root=str(tmp_path)), split)
    assert data.read(DataConfig(), None).images.tolist() == np.ones((2, 3, 4, 4)).tolist()


def test_foolboxs_samples_are_not_to_train_on():
    with pytest.raises(UserError, match="has only 20 images, for evaluation; train on digits"):
        open_source(DataConfig("foolbox/mnist"), "train")


def test_labels_are_those_of_the_images_where_a_data_set_holds_several_per_image():
    data = _data_set("tagged", Tagged()).read(DataConfig(classes=[2]), None)
    assert data.index.tolist() == [2, 5, 8, 11]


def gradients():
    images, labels = scaled()
    return torch.from_numpy(images).requires_grad_(), torch.from_numpy(labels).double()


def half_precision():
    images, labels = scaled()
    return torch.from_numpy(images).bfloat16(), torch.from_numpy(labels).to(torch.uint8)


def mappings():
    return [{"img": image, "label": label} for image, label in pairs()]


def columns():
    images, labels = scaled()
    return {"pixel_values": images, "labels": labels}


def triples():
    return [(image, label, {"hospital": 3}) for image, label in pairs()]


@pytest.mark.parametrize(
    "name",
    ["scaled", "pairs", "gradients", "half_precision", "mappings", "columns", "triples"],
)
def test_data_of_ones_own_are_arrays_pairs_or_mappings(name):
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
        (target("nothing"), "nothing is empty"),
        (target("labelled_below_zero"), "has the label -1; labels count from 0"),
        (target("labelled_by_halves"), "label 0.5, which is no class; give integers"),
        (target("labelled_by_one_hot"), "has no class per image, but ndarray"),
        (target("unlabelled"), "sample 0 of .*unlabelled is ndarray; return .image, label."),
        (target("missing"), "sample 0 of .*missing is NoneType; return .image, label."),
        (target("no_image"), "sample 0 of .*no_image holds NoneType, which is no image"),
        (target("other_keys"), "has the keys 'x', 'y'; name them image and label"),
        (target("fewer_labels"), "returned 4 images and 3 labels; return one label per image"),
        (target("raising"), "sample 0 of .*raising cannot be read .KeyError: 'disk'"),
        (DataConfig("folder", root=""), r"data\.root: is missing"),
        (DataConfig("CIFAR10", root=""), r"data\.root: is missing"),
        (target("labelled_by_boxes"), "has no class per image, but dict"),
        (DataConfig("LSUN", root="/nowhere"), "there is no data set 'LSUN'"),
        (DataConfig("os.system", root="/nowhere"), "there is no data set 'os.system'"),
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

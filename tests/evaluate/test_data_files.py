"""Tar files as webdataset writes them, data sets of Hugging Face, arrays that stay on disk."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from foolbox_carescale.evaluate import DataConfig, UserError
from foolbox_carescale.evaluate.data.sources import load_data, open_data, open_source


def photo(number, mode="RGB"):
    pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind="png"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_tars(root, count=3, each=2):
    """Write tar files of photos 0, 1, ... whose classes are number % 3."""
    for tar in range(count):
        members = []
        for number in range(tar * each, (tar + 1) * each):
            key = f"some.folder/{number:05d}"
            members += [
                (f"{key}.json", b"{}"),
                (f"{key}.png", encoded(photo(number))),
                (f"{key}.cls", f"{number % 3}\n".encode()),
            ]
        write_tar(root / f"photos-{tar:03d}.tar", members)


def webdataset(root, **keys):
    return DataConfig("webdataset", root=str(root), **keys)


def expected_pixels(*numbers):
    return np.stack([np.moveaxis(np.asarray(photo(n)), -1, 0) for n in numbers])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pattern", ["", "/photos-{000..002}.tar", "/*.tar"])
def test_tar_files_give_samples_in_any_order(tmp_path, pattern, workers):
    write_tars(tmp_path)
    source = open_source(webdataset(f"{tmp_path}{pattern}"))
    assert (source.length, source.num_classes) == (6, 3)
    data = source.choose(DataConfig(workers=workers), None)
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    for positions in ([5, 0], [2, 3]):
        batch = data.batch(positions)
        assert np.array_equal(batch.pixels, expected_pixels(*positions))
        assert batch.labels.tolist() == [n % 3 for n in positions]
    data.close()


def test_several_patterns_of_tar_files_are_one_data_set(tmp_path):
    write_tars(tmp_path)
    first, last = tmp_path / "photos-000.tar", tmp_path / "photos-002.tar"
    data = load_data(webdataset(f"{last}::{first}", classes=[1]))
    assert data.index.tolist() == [0, 3]
    assert np.array_equal(data.pixels, expected_pixels(4, 1))


def test_an_image_in_a_tar_file_that_cannot_be_decoded_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", [("x/1.jpg", b"no image"), ("x/1.cls", b"0")])
    line = r"data: 'x/1' in '.*a\.tar' cannot be read as an image .*; repair or remove it"
    with pytest.raises(UserError, match=line):
        load_data(webdataset(tmp_path))


PNG = encoded(photo(0))


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ([("1.png", PNG)], "'1' in .* has no class; write it as a number in 1.cls"),
        ([("1.png", PNG), ("1.cls", b"cat")], "has no class per image, but str"),
        ([("1.png", PNG), ("1.cls", b"-1")], "has the label -1; labels count from 0"),
        ([("1.png", PNG), ("1.jpg", PNG), ("1.cls", b"1")], "'1' in .* has several images"),
        ([("readme.txt", b"")], "webdataset is empty"),
        (None, "cannot be read as a tar file .*; copy it again, not compressed"),
    ],
)
def test_tar_files_that_cannot_be_used_are_one_line(tmp_path, members, line):
    if members is None:
        with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("1.png"))
    else:
        write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=line) as caught:
        load_data(webdataset(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.55, 1, 2])
def test_a_tar_file_that_breaks_off_or_goes_on_is_not_read_in_part(tmp_path, kept):
    """Python's tarfile takes a header that is cut for the end, and stops at the first such mark."""
    path = tmp_path / "a.tar"
    members = [
        (f"{n}.{kind}", held) for n in range(2) for kind, held in (("png", PNG), ("cls", b"1"))
    ]
    write_tar(path, members)
    content = path.read_bytes()
    used = sum(512 + 512 * -(-len(held) // 512) for _, held in members)
    path.write_bytes(content[: int(kept * used)] if kept <= 1 else content * kept)
    with pytest.raises(UserError, match=r"cannot be read as a tar file|has no class"):
        open_source(webdataset(tmp_path))


@pytest.mark.parametrize(
    ("root", "line"),
    [
        (None, r"data\.root: is missing"),
        ("nowhere/*.tar", "there is no tar file 'nowhere/.*'"),
        ("https://example.org/a.tar", "there is no tar file"),
        ("a-{0..99999999}.tar", "names more than 1048576 tar files"),
        ("a-{3..1}.tar", "counts down; write the lower number first"),
    ],
)
def test_patterns_without_tar_files_are_one_line(root, line):
    with pytest.raises(UserError, match=line):
        open_source(DataConfig("webdataset", root=root))


def test_links_and_devices_in_a_tar_file_are_not_followed(tmp_path):
    write_tars(tmp_path, count=1)
    with tarfile.open(tmp_path / "photos-000.tar", "a") as tar:
        for name, kind in (("2.png", tarfile.SYMTYPE), ("3.png", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert open_source(webdataset(tmp_path)).length == 2


def saved(root, **columns):
    """Save a data set of 4 photos with the splits train and test; columns replace its own."""
    datasets = pytest.importorskip("datasets")
    content = {
        "id": [7, 8, 9, 10],
        "img": [photo(n) for n in range(4)],
        "label": [0, 1, 1, 0],
        **columns,
    }
    features = datasets.Features(
        {"id": datasets.Value("int64"), "img": datasets.Image()}
        | {"label": datasets.ClassLabel(names=["cat", "dog"])}
        | {name: datasets.Value("int64") for name in set(columns) - {"img", "label"}}
    )
    found = datasets.Dataset.from_dict(content, features=features)
    splits = {"train": found.select([0]), "test": found.select([3, 1, 2])}
    datasets.DatasetDict(splits).save_to_disk(root)
    return found


def hugging_face(root, **params):
    return DataConfig(f"hf/{root}", params=params)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_saved_data_set_of_hugging_face_is_read_by_its_columns(tmp_path):
    saved(tmp_path / "set")
    source = open_source(hugging_face(tmp_path / "set"))
    assert (source.length, source.num_classes, source.class_names) == (3, 2, ["cat", "dog"])
    for workers in (0, 2):
        data = source.choose(DataConfig(workers=workers, classes=["dog"]), None)
        assert data.labels.tolist() == [1, 1]
        assert np.array_equal(data.batch([0, 1]).pixels, expected_pixels(1, 2))
        data.close()
    assert open_source(hugging_face(tmp_path / "set", split="train")).length == 1
    assert open_source(hugging_face(tmp_path / "set"), "train").length == 1


def test_files_that_hugging_faces_library_reads_are_a_data_set(tmp_path):
    (tmp_path / "set").mkdir()
    saved(tmp_path / "other").to_parquet(tmp_path / "set" / "test.parquet")
    config = hugging_face(tmp_path / "set", cache_dir=str(tmp_path / "cache"))
    data = load_data(config)
    assert data.labels.tolist() == [0, 1, 1, 0]
    assert np.array_equal(data.pixels, expected_pixels(0, 1, 2, 3))


def test_a_photo_of_hugging_face_that_lies_on_its_side_is_turned_as_the_library_does(tmp_path):
    image, exif = photo(0), Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    file = io.BytesIO()
    image.save(file, "png", exif=exif)
    photos = [{"bytes": file.getvalue(), "path": None}] * 4
    saved(tmp_path / "set", img=photos)
    batch = load_data(hugging_face(tmp_path / "set"))
    turned = np.moveaxis(np.asarray(image.rotate(-90, expand=True)), -1, 0)
    assert np.array_equal(batch.pixels[0], turned)


def test_a_damaged_photo_of_hugging_face_is_named(tmp_path):
    photos = [{"bytes": b"no image", "path": "a.jpg"}] * 4
    saved(tmp_path / "set", img=photos)
    with pytest.raises(UserError, match=r"sample 0 of hf/.*set \('a.jpg'\) cannot be read"):
        load_data(hugging_face(tmp_path / "set"))


def test_an_address_in_a_data_set_of_hugging_face_is_not_connected_to():
    datasets = pytest.importorskip("datasets")
    from foolbox_carescale.evaluate.data.huggingface import _source

    content = {"image": [{"bytes": None, "path": "https://example.org/a.jpg"}], "label": [0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    source = _source("far", datasets.Dataset.from_dict(content, features=features), None, None)
    with pytest.raises(UserError, match=r"'https.*jpg' cannot be read .* .there is no such file"):
        source.read(DataConfig(), None)


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"split": "tset"}, r"data\.params\.split: .* has no split 'tset'; did you mean 'test'"),
        ({"image": "picture"}, r"data\.params\.image: there is no 'picture'; .* has the columns"),
        ({"trust_remote_code": True}, r"data\.params\.trust_remote_code: .* has no such argument"),
        ({"revision": "main"}, r"data\.params\.revision: .* has no such argument"),
    ],
)
def test_what_a_data_set_of_hugging_face_lacks_is_one_line(tmp_path, params, line):
    saved(tmp_path / "set")
    with pytest.raises(UserError, match=line) as caught:
        open_source(hugging_face(tmp_path / "set", **params))
    assert "\n" not in str(caught.value)


def test_a_data_set_of_hugging_face_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.name: hf/.*empty cannot be opened") as caught:
        open_source(hugging_face(tmp_path / "empty", cache_dir=str(tmp_path / "cache")))
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    line = r"needs the package datasets; run: pip install 'foolbox-carescale\[huggingface\]'"
    with pytest.raises(UserError, match=line):
        open_source(hugging_face(tmp_path / "empty"))


def test_two_label_columns_are_told_apart_by_name(tmp_path):
    saved(tmp_path / "set", target=[1, 1, 0, 0])
    data = open_data(hugging_face(tmp_path / "set", label="target"))
    assert data.labels.tolist() == [0, 1, 0]


def on_disk(folder):
    return tuple(np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("images", "labels"))


def test_arrays_on_disk_stay_there_until_a_batch_needs_them(tmp_path):
    images = np.random.default_rng(0).random((50, 3, 4, 4), np.float32)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.arange(50) % 4)
    config = DataConfig(_target_=f"{__name__}.on_disk", params={"folder": str(tmp_path)})
    data = open_data(config)
    last = np.memmap(tmp_path / "images.npy", mode="r+")[-images[-1].nbytes :]
    last[:] = np.ones_like(images[-1]).view(np.uint8).ravel()  # as the file is when it is read
    assert np.array_equal(data.batch([3, 49]).images, [images[3], np.ones_like(images[-1])])
    assert data.labels.tolist() == [*range(4)] * 12 + [0, 1]
    assert os.path.getsize(tmp_path / "images.npy") > images.nbytes

import logging

import numpy as np
import pytest
import voc_folder
from PIL import Image
from voc_folder import BOX, CLASSES, SIZE

from iecl_jax.data.voc import tree

pytestmark = pytest.mark.quick


@pytest.fixture
def root(tmp_path):
    return voc_folder.make(tmp_path / "VOC")


def opened(root, needs="masks", **options):
    return tree.open_tree(str(root), needs=needs, **{"classes": CLASSES, **options})


def refused(root, needs="masks", **options):
    """The sentence with which a folder is refused, without its own path."""
    with pytest.raises(ValueError) as caught:
        opened(root, needs, **options)
    return str(caught.value).replace(f"{root}/", "").replace(str(root), "ROOT")


def said(caplog):
    """What was logged, without what is waited for, which depends on the level of the log."""
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if not line.endswith(" ...")]


def test_masks(root):
    split = opened(root)
    assert split.ids == ("im0", "im1", "im2", "im3")
    assert len(split) == 4
    assert split.classes == CLASSES
    np.testing.assert_array_equal(split.sizes, [SIZE] * 4)
    assert split.image(0).shape == (*SIZE, 3)
    mask = split.mask(0)
    assert mask.dtype == np.uint8
    assert np.bincount(mask.ravel(), minlength=256)[[0, 1, 255]].tolist() == [530, 60, 10]
    assert (mask[4:10, 2:12] == 1).all()
    with pytest.raises(TypeError, match="boxes"):
        split.objects(0)


@pytest.mark.parametrize("origin, box", [("voc", (2, 4, 12, 10)), ("as_is", BOX)])
def test_boxes(root, origin, box):
    voc_folder.annotation(root, "im4", ("dog", BOX, True), ("cat", (1, 1, 30, 20)))
    voc_folder.annotation(root, "im5")
    split = opened(root, "boxes", split="val", box_origin=origin)
    boxes, labels, difficult = split.objects(0)
    assert (boxes.dtype, labels.dtype, difficult.dtype) == (np.float32, np.int32, bool)
    np.testing.assert_array_equal(boxes[0], box)
    np.testing.assert_array_equal(boxes[1], (0, 0, 30, 20) if origin == "voc" else (1, 1, 30, 20))
    assert labels.tolist() == [1, 0]
    assert difficult.tolist() == [True, False]
    assert [part.shape for part in split.objects(1)] == [(0, 4), (0,), (0,)]
    with pytest.raises(TypeError, match="masks"):
        split.mask(0)


def test_the_box_of_a_mask_is_its_extent_with_voc_origin(root):
    [box], _, _ = opened(root, "boxes").objects(0)
    rows, columns = np.nonzero(opened(root).mask(0) == 1)
    extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_array_equal(box, extent)


def test_parts_of_objects_and_odd_numbers(root):
    path = root / "Annotations" / "im0.xml"
    path.write_text(
        "<annotation><object><name> dog </name><part><name>head</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox><xmax>12.5</xmax>"
        "<ymax>10</ymax><xmin>3.25</xmin><ymin>5</ymin></bndbox></object></annotation>"
    )
    boxes, labels, difficult = opened(root, "boxes").objects(0)
    np.testing.assert_array_equal(boxes, [[2.25, 4, 12.5, 10]])
    assert labels.tolist() == [1]
    assert difficult.tolist() == [False]


def test_masks_of_sbd_stand_in_for_missing_ones(root):
    (root / "SegmentationClass" / "im1.png").unlink()
    sbd = np.full(SIZE, 2, np.uint8)
    for name in ("im0", "im1"):
        voc_folder.mask(root, name, sbd, "SegmentationClassAug")
    split = opened(root)
    assert (split.mask(1) == 2).all()
    assert (split.mask(0) != 2).all()


@pytest.mark.parametrize("mode", ["L", "1"])
def test_masks_without_a_palette(root, mode):
    values = np.zeros(SIZE, np.uint8)
    values[3:7] = 1
    image = Image.fromarray(values) if mode == "L" else Image.fromarray(values.astype(bool))
    assert image.mode == mode
    image.save(root / "SegmentationClass" / "im0.png")
    np.testing.assert_array_equal(opened(root).mask(0), values)


def test_lists_of_paths_as_those_of_sbd(root):
    text = "/JPEGImages/im3.jpg /SegmentationClassAug/im3.png\r\n\r\nim1\r\n"
    voc_folder.listed(root, "train", text)
    assert opened(root).ids == ("im3", "im1")


def test_lists_of_several_folders(tmp_path):
    for name in ("VOC2007", "VOC2012"):
        voc_folder.make(tmp_path / name)
    both = "VOC2007/train+VOC2012/train"
    split = opened(tmp_path, split=both, pair=(both, "VOC2007/val"))
    assert split.ids == tuple(f"VOC20{y}/im{i}" for y in ("07", "12") for i in range(4))
    absent = "VOC2007/train+VOC2012/nowhere"
    text = refused(tmp_path, split=absent, pair=(absent, "VOC2007/val"))
    assert "The list VOC2012/ImageSets/Segmentation/nowhere.txt does not exist" in text


def test_splits_that_are_wrong(tmp_path):
    voc_folder.make(tmp_path / "VOC2007")
    twice = "VOC2007/train+ /VOC2007/train"
    text = refused(tmp_path, split=twice, pair=(twice, "VOC2007/val"))
    assert text == f"The lists of {twice} have the same images (4): im0, im1, im2, im3."
    text = refused(tmp_path, split="VOC2007/", pair=("VOC2007/", "VOC2007/val"))
    assert text.startswith("The split 'VOC2007/' names no list")


def test_identity_follows_images_truth_and_order(root):
    before = opened(root).identity
    assert before == opened(root).identity
    assert before["images"] == 4
    assert opened(root, split="val").identity["digest"] != before["digest"]
    voc_folder.mask(root, "im0", np.zeros(SIZE, np.uint8))
    assert opened(root).identity["digest"] != before["digest"]


def test_without_lists_a_fifth_is_drawn_for_the_test(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    root = voc_folder.make(tmp_path / "VOC", 10, lists=False)
    train, test = opened(root), opened(root, split="val")
    assert (len(train), len(test)) == (8, 2)
    assert sorted(train.ids + test.ids) == [f"im{i}" for i in range(10)]
    assert (train.ids, test.ids) == (opened(root).ids, opened(root, split="val").ids)
    assert any(opened(root, split="val", seed=seed).ids != test.ids for seed in range(1, 4))
    text = "train.txt does not exist: seed=0 draws 8 of the 10 images with a mask."
    assert any(line.endswith(text) for line in said(caplog))


@pytest.mark.parametrize("gone, rest", [("val", ("im4", "im5")), ("train", ("im0", "im1"))])
def test_without_one_list_the_other_leaves_the_rest(root, gone, rest, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    voc_folder.listed(root, "train", "im0\nim1\nim2\nim3")
    voc_folder.listed(root, "val", "im2\nim3\nim4\nim5")
    (root / "ImageSets" / "Main" / f"{gone}.txt").unlink()
    assert opened(root, "boxes", split=gone).ids == rest
    assert any(
        "the rest of the images with an annotation (2) is taken" in line for line in said(caplog)
    )


def test_a_drawn_list_has_only_images_with_truth(tmp_path):
    root = voc_folder.make(tmp_path / "VOC", 10, lists=False)
    for number in range(6):
        (root / "SegmentationClass" / f"im{number}.png").unlink()
    assert sorted(opened(root).ids + opened(root, split="val").ids) == ["im6", "im7", "im8", "im9"]
    for number in range(6, 9):
        (root / "SegmentationClass" / f"im{number}.png").unlink()
    assert "too few to draw one (1)" in refused(root)


def test_an_image_in_both_lists_is_told(root, caplog):
    voc_folder.listed(root, "val", "im0\nim5\n")
    opened(root)
    [text] = said(caplog)
    assert "images in both lists, train and val (1): im0." in text


def test_class_names():
    assert tree.class_names("") == tree.CLASSES
    assert len(tree.CLASSES) == 20
    assert list(tree.CLASSES) == sorted(tree.CLASSES)
    assert tree.class_names("RBC, WBC,Platelets") == ("RBC", "WBC", "Platelets")
    for wrong in ("a,,b", "a,b,a", "background,a", ",".join(f"c{i}" for i in range(255))):
        with pytest.raises(ValueError, match=r"^data.classes='.* without the background\.$"):
            tree.class_names(wrong)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"^data.dir='nowhere' is not a folder\.$"):
        tree.open_tree("nowhere")
    voc_folder.make(tmp_path / "VOCdevkit" / "VOC2012")
    found = f"did you mean data.dir={tmp_path}/VOCdevkit/VOC2012?"
    with pytest.raises(ValueError, match="has no folder JPEGImages") as caught:
        opened(tmp_path)
    assert found in str(caught.value)


def test_lists_that_are_wrong(root):
    def of(text):
        voc_folder.listed(root, "train", text)
        return refused(root)

    assert of("im0\nim9\n") == (
        "ImageSets/Segmentation/train.txt names images that JPEGImages does not have (1): im9. "
        "Add the images, or take the lines out."
    )
    assert "names images twice: im1." in of("im1\nim0\nim1\n")
    assert "train.txt is empty" in of("\n")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"\xff\xfe\x00")
    assert "train.txt cannot be read" in refused(root)


def test_two_images_of_one_name(root):
    Image.new("RGB", (2, 2)).save(root / "JPEGImages" / "im0.png")
    assert "im0.jpg and im0.png, which differ only in their ending" in refused(root)


@pytest.mark.parametrize(
    "needs, missing", [("masks", "SegmentationClass/im2.png"), ("boxes", "Annotations/im2.xml")]
)
def test_missing_truth(root, needs, missing):
    (root / missing).unlink()
    text = refused(root, needs)
    assert f"train.txt names im2, which lacks {'a mask' if needs == 'masks' else 'an ann'}" in text
    assert f"{missing} does not exist." in text


def test_broken_files(root):
    (root / "SegmentationClass" / "im1.png").write_bytes(b"nothing")
    (root / "Annotations" / "im1.xml").write_text("<annotation><object>")
    assert refused(root).startswith("The mask SegmentationClass/im1.png cannot be read (")
    assert refused(root, "boxes").startswith("The annotation Annotations/im1.xml cannot be read (")
    (root / "JPEGImages" / "im1.jpg").write_bytes(b"nothing")
    assert refused(root).startswith("The image JPEGImages/im1.jpg cannot be read (")


def test_masks_that_are_wrong(root):
    def of(values):
        Image.fromarray(values).save(root / "SegmentationClass" / "im3.png")
        return refused(root)

    text = of(np.zeros((30, 20), np.uint8))
    assert text == (
        "The mask SegmentationClass/im3.png has 20 x 30 pixels, but its image 30 x 20: make them "
        "equal."
    )
    assert "im3.png holds the number 3, but data.classes names 2 classes" in of(
        np.full(SIZE, 3, np.uint8)
    )
    assert "im3.png is an image of Pillow's mode RGB: its pixels" in of(
        np.zeros((*SIZE, 3), np.uint8)
    )


@pytest.mark.parametrize(
    "box, origin, words",
    [
        ((5, 5, 4, 9), "voc", "has no width or no height (xmin, ymin, xmax, ymax = 5, 5, 4, 9): "),
        ((5, 5, 5, 9), "as_is", "remove the object, or count the pixels of both corners with data"),
        ((9, 5, 5, 9), "as_is", "mend or remove the object."),
        ((31, 5, 40, 9), "as_is", "has no part inside its 30 x 20 image"),
    ],
)
def test_boxes_that_are_wrong(root, box, origin, words):
    voc_folder.annotation(root, "im2", ("cat", BOX), ("dog", box))
    text = refused(root, "boxes", box_origin=origin)
    assert text.startswith("Annotations/im2.xml: the box of object 2 (dog) has no ")
    assert words in text


def test_a_box_of_one_pixel_has_a_width_with_voc_origin(root):
    voc_folder.annotation(root, "im0", ("cat", (5, 6, 5, 6)))
    np.testing.assert_array_equal(opened(root, "boxes").objects(0).boxes, [[4, 5, 5, 6]])


def test_boxes_beyond_the_image_are_cut(root, caplog):
    voc_folder.annotation(root, "im0", ("cat", (0, 0, 30, 20)))
    np.testing.assert_array_equal(opened(root, "boxes").objects(0).boxes, [[0, 0, 30, 20]])
    assert not said(caplog)
    voc_folder.annotation(root, "im1", ("cat", (5, 5, 42, 21)))
    np.testing.assert_array_equal(opened(root, "boxes").objects(1).boxes, [[4, 4, 30, 20]])
    assert (
        "images with boxes that reach beyond them and are cut (1): by up to 12 pixels in"
        in said(caplog)[-1]
    )


def test_unknown_classes(root):
    voc_folder.annotation(root, "im2", ("doge", BOX), ("cell", BOX))
    assert refused(root, "boxes") == (
        "Annotations/im2.xml has an object of the class 'doge', which data.classes does not name: "
        "did you mean 'dog'? the annotations have the classes cat,cell,dog,doge."
    )


@pytest.mark.parametrize(
    "text, words",
    [
        ("<object><name/></object>", "object 1 has no name"),
        ("<object><name>dog</name></object>", "(dog) needs a bndbox of four numbers"),
        (voc_folder.OBJECT.format(1, 2, "x", 4, name="dog", difficult=0), "has 1, 2, x, 4."),
        (voc_folder.OBJECT.format(1, 2, "inf", 4, name="dog", difficult=0), "has 1, 2, inf, 4."),
    ],
)
def test_annotations_that_are_wrong(root, text, words):
    (root / "Annotations" / "im1.xml").write_text(f"<annotation>{text}</annotation>")
    sentence = refused(root, "boxes")
    assert sentence.startswith("Annotations/im1.xml: object 1")
    assert words in sentence


def test_blood_cells(tmp_path):
    """A folder of another field: PNG images, its own classes, no lists, corners from 0."""
    names = ("RBC", "WBC", "Platelets")
    root = tmp_path / "cells"
    for number in range(5):
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), "pink").save(root / "JPEGImages" / f"Cell {number}.png")
        objects = [(name, (0, 0, 10 + number, 20)) for name in names[: number + 1]]
        voc_folder.annotation(root, f"Cell {number}", *objects)
    assert "the annotations have the classes Platelets,RBC,WBC" in refused(root, "boxes")
    options = {"classes": names, "box_origin": "as_is"}
    train, test = opened(root, "boxes", **options), opened(root, "boxes", split="val", **options)
    assert (len(train), len(test)) == (4, 1)
    assert {label for i in range(4) for label in train.objects(i).labels.tolist()} <= {0, 1, 2}

"""Data sets of breeds, makes, species, dishes and models."""

from __future__ import annotations

from mmlop.data.download import Remote, drive
from mmlop.data.public import layouts
from mmlop.data.public.addresses import SPLITS, VGG, mirror, split_file
from mmlop.data.public.record import Annotations, Public

OXFORD_PETS = Public(
    name="oxford_pets",
    title="OxfordPets",
    description="Oxford-IIIT Pet: 37 breeds of cats and dogs",
    classes=37,
    counts=(2944, 736, 3669),
    template="a photo of a {}, a type of pet.",
    licence="CC BY-SA 4.0",
    page=f"{VGG}/pets/",
    folder="oxford_pets",
    pictures="images",
    gigabytes=0.79,
    layout=layouts.pets,
    sources=(
        (
            Remote(
                "images.tar.gz",
                (f"{VGG}/pets/data/images.tar.gz",),
                "sha256:67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                791918971,
            ),
        ),
        mirror("oxford_pets.zip"),
    ),
    keep={"images": "images", "annotations": "annotations"},
    split=split_file(
        "OxfordPets",
        "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        "sha256:d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
        724217,
    ),
    annotations=(
        Annotations(
            Remote(
                "annotations.tar.gz",
                (f"{VGG}/pets/data/annotations.tar.gz",),
                "sha256:52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                19173078,
            ),
            ("annotations/trainval.txt", "annotations/test.txt"),
        ),
    ),
)

STANFORD_CARS = Public(
    name="stanford_cars",
    title="StanfordCars",
    description="Stanford Cars: 196 makes, models and years",
    classes=196,
    counts=(6509, 1635, 8041),
    template="a photo of a {}.",
    licence="no licence known; research use by custom",
    page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    folder="stanford_cars",
    pictures="",
    gigabytes=1.96,
    layout=layouts.cars,
    sources=(
        mirror("stanford_cars.zip"),
        (
            Remote(
                "stanford_cars.tar.gz",
                ("https://huggingface.co/datasets/koorye/Stanford-Cars/resolve/main/stanford_cars.tar.gz",),
            ),
        ),
        (
            Remote(
                "cars_train.tgz",
                (),
                "sha256:512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
                979269282,
            ),
            Remote(
                "cars_test.tgz",
                (),
                "sha256:bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
                977350468,
            ),
        ),
    ),
    keep={
        "cars_train": "cars_train",
        "cars_test": "cars_test",
        "devkit": "devkit",
        "cars_test_annos_withlabels.mat": "cars_test_annos_withlabels.mat",
    },
    split=split_file(
        "StanfordCars",
        "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
        "sha256:40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
        1855652,
    ),
    annotations=(
        Annotations(
            Remote(
                "car_devkit.tgz",
                ("https://github.com/pytorch/vision/files/11644847/car_devkit.tgz",),
                "sha256:b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
                330960,
            ),
            ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat"),
        ),
        Annotations(
            Remote(
                "cars_test_annos_withlabels.mat",
                (),
                "sha256:790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
                185758,
            ),
            ("cars_test_annos_withlabels.mat",),
        ),
    ),
    had="mirror",
)

OXFORD_FLOWERS = Public(
    name="oxford_flowers",
    title="Flowers102",
    description="Oxford Flowers: 102 kinds of flowers",
    classes=102,
    counts=(4093, 1633, 2463),
    template="a photo of a {}, a type of flower.",
    licence="not stated by its authors",
    page=f"{VGG}/flowers/102/",
    folder="oxford_flowers",
    pictures="jpg",
    gigabytes=0.35,
    layout=layouts.flowers,
    sources=(
        (
            Remote(
                "102flowers.tgz",
                (f"{VGG}/flowers/102/102flowers.tgz",),
                "sha256:2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
                344862509,
            ),
        ),
        mirror("oxford_flowers.zip"),
    ),
    keep={"jpg": "jpg", "imagelabels.mat": "imagelabels.mat", "cat_to_name.json": "cat_to_name.json"},
    split=split_file(
        "OxfordFlowers",
        "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        "sha256:2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
        771139,
    ),
    annotations=(
        Annotations(
            Remote(
                "imagelabels.mat",
                (f"{VGG}/flowers/102/imagelabels.mat",),
                "sha256:4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
                502,
            ),
            ("imagelabels.mat",),
        ),
        Annotations(
            Remote(
                "cat_to_name.json",
                (f"{SPLITS}/cat_to_name.json", drive("1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0")),
                "sha256:0469f1ad7fe0072d98155c49aa58649d998edbbe3326229003aa5f7228525236",
                2212,
            ),
            ("cat_to_name.json",),
        ),
    ),
)

FOOD101 = Public(
    name="food101",
    title="Food101",
    description="Food-101: 101 dishes",
    classes=101,
    counts=(50500, 20200, 30300),
    template="a photo of {}, a type of food.",
    licence="pictures from Foodspotting: beyond scientific fair use, to be agreed with their owners",
    page="https://vision.ee.ethz.ch/datasets_extra/food-101/",
    folder="food-101",
    pictures="images",
    gigabytes=5.0,
    layout=layouts.folders("images"),
    sources=(
        (
            Remote(
                "food-101.tar.gz",
                ("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",),
                "sha256:d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
                4996278331,
            ),
        ),
        mirror("food101.zip"),
    ),
    keep={"images": "images"},
    split=split_file("Food101", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl", "git:39557040ee6501bd32aa8b5dfd75f7941a32f0a7"),
)

FGVC_AIRCRAFT = Public(
    name="fgvc_aircraft",
    title="FGVCAircraft",
    description="FGVC-Aircraft: 100 variants of aircraft",
    classes=100,
    counts=(3334, 3333, 3333),
    template="a photo of a {}, a type of aircraft.",
    licence="non-commercial research only; copyright with the photographers",
    page=f"{VGG}/fgvc-aircraft/",
    folder="fgvc_aircraft",
    pictures="images",
    gigabytes=2.75,
    layout=layouts.aircraft,
    sources=(
        (
            Remote(
                "fgvc-aircraft-2013b.tar.gz",
                (f"{VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
                "md5:d4acdd33327262359767eeaa97a4f732",
            ),
        ),
        mirror("fgvc_aircraft.zip"),
    ),
    keep={
        "images": "images",
        "variants.txt": "variants.txt",
        "images_variant_train.txt": "images_variant_train.txt",
        "images_variant_val.txt": "images_variant_val.txt",
        "images_variant_test.txt": "images_variant_test.txt",
    },
)

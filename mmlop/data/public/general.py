"""Data sets of objects, scenes, textures, land and actions."""

from __future__ import annotations

from mmlop.data.download import Remote, drive
from mmlop.data.public import layouts
from mmlop.data.public.addresses import VGG, mirror, split_file
from mmlop.data.public.record import Annotations, Public

CALTECH101 = Public(
    name="caltech101",
    title="Caltech101",
    description="Caltech101: objects of 100 kinds",
    classes=100,
    counts=(4128, 1649, 2465),
    template="a photo of a {}.",
    licence="CC BY 4.0",
    page="https://data.caltech.edu/records/mzrjq-6wc02",
    folder="caltech-101",
    pictures="101_ObjectCategories",
    gigabytes=0.14,
    layout=layouts.folders(
        "101_ObjectCategories",
        ignored=("BACKGROUND_Google", "Faces_easy"),
        renames={"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"},
    ),
    sources=(
        (
            Remote(
                "caltech-101.zip",
                ("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",),
                "md5:3138e1922a9193bfa496528edbbc45d0",
            ),
        ),
        mirror("caltech-101.zip"),
    ),
    keep={"101_ObjectCategories": "101_ObjectCategories"},
    inside="101_ObjectCategories.tar.gz",
    split=split_file(
        "Caltech101",
        "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
        "sha256:52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
        809184,
    ),
)

SUN397 = Public(
    name="sun397",
    title="SUN397",
    description="SUN397: 397 kinds of scenes",
    classes=397,
    counts=(15880, 3970, 19850),
    template="a photo of a {}.",
    licence="academic use (the page that said so is offline)",
    page="https://vision.princeton.edu/projects/2010/SUN/",
    folder="sun397",
    pictures="SUN397",
    gigabytes=39.2,
    layout=layouts.sun,
    sources=(
        mirror("sun397.zip", "sha256:ce6dee6685c9f1d592c8297e193dde885aa9c50d008fd998a38ccc57a3dda722", 39182693483),
        (
            Remote(
                "SUN397.tar.gz",
                (),
                "sha256:f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
                39077296924,
            ),
        ),
    ),
    keep={
        "SUN397": "SUN397",
        "ClassName.txt": "ClassName.txt",
        "Training_01.txt": "Training_01.txt",
        "Testing_01.txt": "Testing_01.txt",
    },
    kept=0.4,
    split=split_file("SUN397", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq", "git:8d5725db8f70bcf02245665304f863e68f96a24c"),
    annotations=(
        Annotations(
            Remote(
                "Partitions.zip",
                (),
                "sha256:e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9",
                18293705,
            ),
            ("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
        ),
    ),
    had="mirror",
)

DTD = Public(
    name="dtd",
    title="DTD",
    description="Describable Textures: 47 textures",
    classes=47,
    counts=(2820, 1128, 1692),
    template="{} texture.",
    licence="free for research",
    page=f"{VGG}/dtd/",
    folder="dtd",
    pictures="images",
    gigabytes=0.63,
    layout=layouts.folders("images"),
    sources=(
        (
            Remote(
                "dtd-r1.0.1.tar.gz",
                (f"{VGG}/dtd/download/dtd-r1.0.1.tar.gz",),
                "sha256:e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
                625239812,
            ),
        ),
        mirror("dtd.zip", "sha256:5ba4d3000e60f5541ba15a082033ca0696eee68125e9c28edff3dbe22f04313b", 626071992),
    ),
    keep={"images": "images"},
    split=split_file(
        "DescribableTextures",
        "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
        "sha256:f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
        563702,
    ),
)

EUROSAT = Public(
    name="eurosat",
    title="EuroSAT",
    description="EuroSAT: 10 uses of land, seen from a satellite",
    classes=10,
    counts=(13500, 5400, 8100),
    template="a centered satellite photo of {}.",
    licence="MIT",
    page="https://github.com/phelber/EuroSAT",
    folder="eurosat",
    pictures="2750",
    gigabytes=0.09,
    layout=layouts.folders(
        "2750",
        renames={
            "AnnualCrop": "Annual Crop Land",
            "HerbaceousVegetation": "Herbaceous Vegetation Land",
            "Highway": "Highway or Road",
            "Industrial": "Industrial Buildings",
            "Pasture": "Pasture Land",
            "PermanentCrop": "Permanent Crop Land",
            "Residential": "Residential Buildings",
            "SeaLake": "Sea or Lake",
        },
    ),
    sources=(
        (
            Remote(
                "EuroSAT.zip",
                (
                    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                    "http://madm.dfki.de/files/sentinel/EuroSAT.zip",
                ),
                "sha256:8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
                94280567,
            ),
        ),
        (
            Remote(
                "EuroSAT_RGB.zip",
                ("https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",),
                "sha256:b4f5b234ecb7d7ff9c6cddb046543b4717c53fd6e9815be6c0e80cc614f51b90",
            ),
        ),
        mirror("eurosat.zip"),
    ),
    keep={"2750": "2750", "EuroSAT_RGB": "2750"},
    split=split_file(
        "EuroSAT",
        "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        "sha256:541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
        3006492,
    ),
)

UCF101 = Public(
    name="ucf101",
    title="UCF101",
    description="UCF101: 101 human actions (the middle frame of each video)",
    classes=101,
    counts=(7639, 1898, 3783),
    template="a photo of a person doing {}.",
    licence="not stated by its authors; research use by custom",
    page="https://www.crcv.ucf.edu/data/UCF101.php",
    folder="ucf101",
    pictures="UCF-101-midframes",
    gigabytes=1.0,  # an estimate from above: no size is published
    layout=layouts.ucf,
    sources=(
        (Remote("UCF-101-midframes.zip", (drive("10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O"),)),),
        mirror("ucf101.zip"),
    ),
    keep={"UCF-101-midframes": "UCF-101-midframes", "ucfTrainTestlist": "ucfTrainTestlist"},
    split=split_file(
        "UCF101",
        "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
        "sha256:d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
        1557485,
    ),
    annotations=(
        Annotations(
            Remote(
                "UCF101TrainTestSplits-RecognitionTask.zip",
                ("https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",),
                "sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
                113943,
            ),
            ("ucfTrainTestlist/classInd.txt", "ucfTrainTestlist/trainlist01.txt", "ucfTrainTestlist/testlist01.txt"),
        ),
    ),
)

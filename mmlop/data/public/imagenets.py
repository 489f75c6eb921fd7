"""ImageNet and its four variants."""

from __future__ import annotations

from mmlop.data.download import Remote, drive
from mmlop.data.public import imagenet
from mmlop.data.public.addresses import mirror
from mmlop.data.public.record import Public

PHOTO = "a photo of a {}."
BERKELEY = "https://people.eecs.berkeley.edu/~hendrycks"

IMAGENET = Public(
    name="imagenet",
    title="ImageNet",
    description="ImageNet: objects of 1000 kinds (papers' test pictures; their few-shot draws were never published)",
    classes=1000,
    counts=(1271167, 10000, 50000),
    template=PHOTO,
    licence="ImageNet terms of access: registration, non-commercial research and education only",
    page="https://image-net.org",
    folder="imagenet",
    pictures="images",
    gigabytes=154.7,
    layout=imagenet.original,
    arrange=imagenet.arrange,
    sources=(
        (
            Remote("ILSVRC2012_img_train.tar", (), "md5:1d675b47d978889d74fa0da5fadfb00e", 147897477120),
            Remote("ILSVRC2012_img_val.tar", (), "md5:29b22e2961454d5413ddabcf34fc5622", 6744924160),
            Remote("ILSVRC2012_devkit_t12.tar.gz", (), "md5:fa75699e90414af021442c21a62c3abf"),
        ),
    ),
    held_out=10,
    had="by hand",
    step="register at https://image-net.org and accept its terms; put `ILSVRC2012_img_train.tar`, "
    "`ILSVRC2012_img_val.tar` and `ILSVRC2012_devkit_t12.tar.gz` into `imagenet/`, or a copy you have as "
    "`imagenet/images/train/<wnid>/` and `imagenet/images/val/<wnid>/`",
)

IMAGENETV2 = Public(
    name="imagenetv2",
    title="ImageNetV2",
    description="ImageNetV2: ImageNet's test pictures collected anew (matched frequency)",
    classes=1000,
    counts=(0, 0, 10000),
    template=PHOTO,
    licence="MIT",
    page="https://github.com/modestyachts/ImageNetV2",
    folder="imagenetv2",
    pictures="imagenetv2-matched-frequency-format-val",
    gigabytes=1.26,
    layout=imagenet.by_number("imagenetv2-matched-frequency-format-val"),
    sources=(
        (
            Remote(
                "imagenetv2-matched-frequency.tar.gz",
                ("https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",),
            ),
        ),
        mirror("imagenetv2.zip"),
    ),
    keep={"imagenetv2-matched-frequency-format-val": "imagenetv2-matched-frequency-format-val"},
    variant_of="imagenet",
)

IMAGENET_SKETCH = Public(
    name="imagenet_sketch",
    title="ImageNet-Sketch",
    description="ImageNet-Sketch: black and white sketches of ImageNet's classes",
    classes=1000,
    counts=(0, 0, 50889),
    template=PHOTO,
    licence="MIT (its repository); pictures from the web",
    page="https://github.com/HaohanWang/ImageNet-Sketch",
    folder="imagenet-sketch",
    pictures="images",
    gigabytes=7.8,
    layout=imagenet.by_wnid("images"),
    sources=(
        (Remote("ImageNet-Sketch.zip", (drive("1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA"),)),),
        mirror("imagenet-sketch.zip", "sha256:8f93bc6064cf9d984a64b46925b7f53ab573224ca1c38a404d767b3565e3863f"),
    ),
    keep={"sketch": "images", "images": "images"},
    variant_of="imagenet",
)

IMAGENET_A = Public(
    name="imagenet_a",
    title="ImageNet-A",
    description="ImageNet-A: natural pictures that mislead classifiers, of 200 of ImageNet's classes",
    classes=200,
    counts=(0, 0, 7500),
    template=PHOTO,
    licence="MIT (its repository); pictures from the web",
    page="https://github.com/hendrycks/natural-adv-examples",
    folder="imagenet-adversarial",
    pictures="imagenet-a",
    gigabytes=0.69,
    layout=imagenet.by_wnid("imagenet-a"),
    sources=(
        (
            Remote(
                "imagenet-a.tar",
                (f"{BERKELEY}/imagenet-a.tar",),
                "sha256:3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
                687552512,
            ),
        ),
        mirror("imagenet-adversarial.zip"),
    ),
    keep={"imagenet-a": "imagenet-a"},
    variant_of="imagenet",
)

IMAGENET_R = Public(
    name="imagenet_r",
    title="ImageNet-R",
    description="ImageNet-R: art, cartoons, toys and other renditions of 200 of ImageNet's classes",
    classes=200,
    counts=(0, 0, 30000),
    template=PHOTO,
    licence="MIT (its repository); pictures from the web",
    page="https://github.com/hendrycks/imagenet-r",
    folder="imagenet-rendition",
    pictures="imagenet-r",
    gigabytes=2.19,
    layout=imagenet.by_wnid("imagenet-r"),
    sources=(
        (
            Remote(
                "imagenet-r.tar",
                (f"{BERKELEY}/imagenet-r.tar",),
                "sha256:18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
                2191079936,
            ),
        ),
        mirror("imagenet-rendition.zip"),
    ),
    keep={"imagenet-r": "imagenet-r"},
    variant_of="imagenet",
)

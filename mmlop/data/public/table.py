"""The public data sets as a page of documentation: `mmlop data docs > docs/datasets.md`."""

from __future__ import annotations

from mmlop.data.public.catalogue import SPECS
from mmlop.data.public.record import Public

INTRODUCTION = """\
# Public data sets

The fifteen data sets on which papers compare prompt learning for CLIP: eleven to train and test on, and four variants of
ImageNet that are for tests only. Each is known by name, like the rendered ones and your own:

    mmlop data fetch caltech101

A fetch downloads what is missing, checks it, and writes a manifest of every picture with its class, part and content
hash to `data/<name>/manifest.json`. A second fetch downloads nothing that is there and reads only what changed. Should
pictures not be those of the first fetch, it says so and stops. Remove `data/<name>` to accept them, or those pictures to
have them downloaded again, and fetch once more. `dvc repro` does not look at pictures that it fetched before: it is
`mmlop data fetch` that does, whether or not `params.yaml` lists the data set.

## Where the pictures go

To `.mmlop/data/` in the project, or to the folder that the environment variable `MMLOP_DATA` names. In there each data
set has CoOp's folder for it, so a `DATA` folder that CoOp, CoCoOp, MaPLe or PromptSRC used before will do as it is: point
`MMLOP_DATA` to it, and nothing is downloaded.

Only the pictures that a split names are unpacked, and archives are removed after that. An archive that you put into a
data set's folder yourself, under its original name, is used before any download and stays where it is.

A file `.hashes.sqlite` in each data set's folder remembers the content hashes of its pictures, so that a later fetch reads
only those that changed. Without it every picture is read again, so remove it if you do not trust the disk.
"""

AFTER_TABLE = """\
"Split" says where the parts come from; "had" is how the pictures come: *automatic* from their authors or a copy named by
them, else from a mirror; *mirror* where the authors' server is gone; *by hand* where a person has to agree to terms first.
Counts, checksums and licences are those that the sources, or projects that use them, publish. They are not advice on
what you may do with the pictures: follow the link of a data set for its terms.

## Splits

Ten of the eleven are divided as in papers: nine by the split files of CoOp's authors (`split_zhou_*.json`), FGVC-Aircraft
by its official lists. A split file is downloaded with the pictures and its checksum compared. Where it cannot be had, or
the one in the folder is another one, fetching stops: CoOp's own code would make a new random split under the same name,
and numbers on it do not compare with those of papers.

If that is all right, say so, for one data set at a time; it is entered under `data.own_split` in `params.yaml`:

    mmlop data fetch caltech101 --own-split

A split file in the folder that is not the published one is then used, also if it names fewer pictures. Where there is
none to be had, one is made by CoOp's rule: 50 % of each class for training, 20 % for validation and 30 % for testing, or
80 % and 20 % of the official training list where there is an official test list; it is the same on every machine. In both
cases the manifest says `own`, and so do reports, lest the numbers be taken for those of papers.

Base classes are the first half of the labels, rounded up; novel classes are the rest. The shots of a seed are drawn as
CoOp draws them, so that the same seed gives the same pictures.

Where official lists or folders say what belongs to the published split (FGVC-Aircraft, ImageNet and its variants), pictures
beyond those that were published are refused, as their numbers would not compare.

**ImageNet** has no third part: papers test on its 50,000 official validation pictures, and so does mmlop. Ten training
pictures of each class (a fifth of them at most) are set aside for validation, chosen by content hash. The few-shot draws
of papers were never published and depend on the order in which a file system lists files; those of mmlop are sorted, so
they are the same everywhere, but they are not those of any paper.

**Variants of ImageNet** are test parts. ImageNet-A and ImageNet-R have 200 classes each, and only those are candidates.

## By hand

{steps}

Fetching continues from whatever of this is there.

## Good to know

- The host of Stanford Cars closed in 2023 and that of SUN397 in 2025. Their pictures come from a
  [mirror](https://huggingface.co/zhengli97/prompt_learning_dataset) that keeps CoOp's folders; it also stands in for the
  other data sets but ImageNet where a first address fails. Of most of its files no checksum is published: mmlop then
  takes what it gets, and later fetches notice any change.
- No checksum is published either for the frames of UCF101, for the copy of ImageNetV2 that can still be downloaded, and
  for ImageNet-Sketch as its author offers it.
- A split of one's own for Stanford Cars and SUN397 needs their official lists. What can no longer be downloaded of these
  is named when it is missing, and may be put into the data set's folder.
- Google Drive (UCF101, ImageNet-Sketch, spare addresses of split files) may refuse a file that many ask for: the mirror
  is tried then.
- SUN397 is a download of 39 GB for the 39,700 pictures that its split names.
- Caltech101 has 100 classes here: `BACKGROUND_Google` and `Faces_easy` are left out. Its classes are very unequal, and
  papers report the share of all test pictures that is right, not the mean of classes.
- Food-101, DTD and Oxford Flowers have official splits that CoOp does not use: numbers on those do not compare.
- EuroSAT has ten classes and DTD and FGVC-Aircraft are hard: accuracies on their novel classes differ by several points
  between seeds.
- Some pictures are grey, CMYK, or of another format than their name says (Oxford Pets, ImageNet, SUN397). They are read
  by content and made RGB.
- Two pairs of ImageNet's classes share a name (missile, sunglasses). It is the label that tells them apart.
"""


def markdown() -> str:
    """The page: where data sets go, a table of them, splits, what to do by hand, and pitfalls."""
    head = "| name | classes | train / val / test | template | split | licence | GB | had |"
    rows = [head, "|---" * head.count(" | ") + "|---|"]
    rows += [_row(spec) for spec in SPECS.values()]
    steps = "\n".join(f"- **{spec.title}**: {spec.step}." for spec in SPECS.values() if spec.step)
    return "\n".join([INTRODUCTION, "## The data sets\n", *rows, "", AFTER_TABLE.format(steps=steps).rstrip()])


def _row(spec: Public) -> str:
    counts = " / ".join(f"{count:,}" if count else "-" for count in spec.counts)
    cells = (
        f"[`{spec.name}`]({spec.page}) {spec.title}",
        f"{spec.classes:,}",
        counts,
        f"`{spec.template}`",
        _split(spec),
        spec.licence,
        f"{spec.gigabytes:.2g}" if spec.gigabytes < 10 else f"{spec.gigabytes:.0f}",
        spec.had,
    )
    return f"| {' | '.join(cells)} |"


def _split(spec: Public) -> str:
    if spec.split:
        return "CoOp's file"
    if spec.variant_of:
        return "test only"
    return "official, val of ours" if spec.held_out else "official lists"

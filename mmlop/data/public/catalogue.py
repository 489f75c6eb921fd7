"""The fifteen public data sets of the prompt-learning literature, in the order of its tables."""

from __future__ import annotations

from mmlop.data.public.fine_grained import FGVC_AIRCRAFT, FOOD101, OXFORD_FLOWERS, OXFORD_PETS, STANFORD_CARS
from mmlop.data.public.general import CALTECH101, DTD, EUROSAT, SUN397, UCF101
from mmlop.data.public.imagenets import IMAGENET, IMAGENET_A, IMAGENET_R, IMAGENET_SKETCH, IMAGENETV2
from mmlop.data.public.record import Public

SPECS: dict[str, Public] = {
    record.name: record
    for record in (
        *(
            IMAGENET,
            CALTECH101,
            OXFORD_PETS,
            STANFORD_CARS,
            OXFORD_FLOWERS,
            FOOD101,
            FGVC_AIRCRAFT,
            SUN397,
            DTD,
            EUROSAT,
            UCF101,
        ),
        *(IMAGENETV2, IMAGENET_SKETCH, IMAGENET_A, IMAGENET_R),
    )
}

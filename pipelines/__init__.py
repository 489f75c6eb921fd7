"""One thin file per DVC stage and Prefect flow; everything else is in mmlop/."""

from mmlop import privacy

privacy.apply()  # here, since every flow imports Prefect at its top

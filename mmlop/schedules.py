"""Scheduled retraining, as params.yaml says it: cron lines and intervals."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator

from mmlop.settings import Count, Positive, Section


def _schedule(text: str | None) -> str | None:
    """A cron line, or a number with s, m, h or d."""
    if text is None or interval(text) is not None:
        return text
    from cronsim import CronSim, CronSimError

    try:
        if len(text.split()) != 5:  # with six, Prefect takes the last for seconds, others the first
            raise CronSimError
        CronSim(text, datetime.now())
    except CronSimError:
        raise ValueError("it needs a cron line ('0 3 * * *') or an interval ('30m', '6h', '1d')") from None
    return text


def interval(schedule: str) -> timedelta | None:
    """The time between runs of a schedule that is no cron line.

    >>> interval("6h"), interval("0 3 * * *")
    (datetime.timedelta(seconds=21600), None)
    """
    found = re.fullmatch(r"([1-9][0-9]{0,4})([smhd])", schedule)
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    return timedelta(**{units[found[2]]: int(found[1])}) if found else None


Schedule = Annotated[str | None, AfterValidator(_schedule)]


class Retrain(Section):
    """Scheduled retraining: when, and what is made of trouble."""

    schedule: Schedule = None  # of every data set; None: only by hand
    schedules: dict[str, Schedule] = Field(default_factory=dict)  # of single data sets, instead
    timezone: str = "UTC"
    catch_up: Literal["latest", "all", "none"] = "latest"
    slots: Positive = 1
    restarts: Count = 3

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("it needs the name of a timezone, for instance Europe/Berlin") from None
        return timezone

    def of(self, dataset: str) -> str | None:
        """The schedule of a data set."""
        return self.schedules.get(dataset, self.schedule)
